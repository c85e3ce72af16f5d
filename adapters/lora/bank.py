"""The bank of resident adapters: bounded by bytes, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import mlx.core as mx

from adapters.errors import AdapterTooLarge
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora.resident import ResidentAdapter, make_resident
from adapters.lora.router import Router


class AdapterBank:
    """Which adapters are on the device, and which of them rows are using.

    Device thread only. An adapter in use is never evicted: it is drained, not cut.
    """

    def __init__(self, router: Router, *, budget_bytes: int, dtype: mx.Dtype) -> None:
        self._router = router
        self.dtype = dtype
        self.budget_bytes = budget_bytes
        self._resident: OrderedDict[str, ResidentAdapter] = OrderedDict()
        self._uses: dict[str, int] = {}
        self.nbytes = 0
        self.loads = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._resident)

    def __contains__(self, revision: str) -> bool:
        return revision in self._resident

    @property
    def in_use(self) -> int:
        """Number of adapters that rows hold."""
        return len(self._uses)

    def is_used(self, revision: str) -> bool:
        """Whether a row holds the adapter."""
        return revision in self._uses

    def fits(self, nbytes: int, *, keep: Collection[str] = ()) -> bool:
        """Whether ``nbytes`` more fit once idle adapters outside ``keep`` are evicted."""
        held = sum(each.nbytes for key, each in self._resident.items() if self._stays(key, keep))
        return held + nbytes <= self.budget_bytes

    def commit(self, revision: str, files: AdapterFiles, *, keep: Collection[str] = ()) -> None:
        """Make a validated adapter resident, evicting idle ones outside ``keep`` as needed.

        Raises AdapterTooLarge where it would not fit an empty bank. The caller asks ``fits``
        first and waits while adapters in use leave no room.
        """
        if revision in self._resident:
            return
        size = device_nbytes(files, self.dtype)
        if size > self.budget_bytes:
            raise AdapterTooLarge(
                f"The adapter needs {size} bytes, adapter_budget_bytes is {self.budget_bytes}. "
                "Raise adapter_budget_bytes, or train with a lower rank."
            )
        for idle in [key for key in self._resident if not self._stays(key, keep)]:
            if self.nbytes + size <= self.budget_bytes:
                break
            self.evict(idle)
        adapter = make_resident(revision, files, self.dtype)
        self._router.attach(adapter)
        self._resident[revision] = adapter
        self.nbytes += adapter.nbytes
        self.loads += 1

    def evict(self, revision: str) -> None:
        """Free an idle adapter's memory."""
        if revision in self._uses:
            raise RuntimeError(f"revision {revision} is in use")
        adapter = self._resident.pop(revision)
        self._router.detach(adapter)
        self.nbytes -= adapter.nbytes
        self.evictions += 1

    def _stays(self, revision: str, keep: Collection[str]) -> bool:
        return revision in self._uses or revision in keep

    def acquire(self, revision: str) -> ResidentAdapter:
        """Take a resident adapter into use for one row."""
        adapter = self._resident[revision]
        self._resident.move_to_end(revision)
        self._uses[revision] = self._uses.get(revision, 0) + 1
        return adapter

    def release(self, revision: str) -> None:
        """Give back one row's use."""
        self._uses[revision] -= 1
        if not self._uses[revision]:
            del self._uses[revision]


def device_nbytes(files: AdapterFiles, dtype: mx.Dtype) -> int:
    """Bytes that an adapter takes on the device in ``dtype``."""
    return sum(a.size + b.size for a, b in files.tensors.values()) * dtype.size
