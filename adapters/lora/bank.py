"""The bank of resident adapters: bounded by bytes, least recently used first out."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import mlx.core as mx

from adapters.errors import AdapterTooLarge
from adapters.lora.resident import ResidentAdapter
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
        self._reserved = 0
        self._resident_bytes = 0
        self.loads = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._resident)

    def __contains__(self, revision: str) -> bool:
        return revision in self._resident

    @property
    def nbytes(self) -> int:
        """Bytes of the resident adapters and of what is reserved."""
        return self._resident_bytes + self._reserved

    @property
    def mixture_nbytes(self) -> int:
        """Bytes of the copies that mixed batches read, beside the budget."""
        return self._router.mixture_nbytes

    @property
    def in_use(self) -> int:
        """Number of adapters that rows hold."""
        return len(self._uses)

    def is_used(self, revision: str) -> bool:
        """Whether a row holds the adapter."""
        return revision in self._uses

    def check(self, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        """Raise AdapterTooLarge for an adapter that an empty bank could not take; any thread."""
        elements = sum(math.prod(a) + math.prod(b) for a, b in shapes.values())
        if (size := elements * self.dtype.size) > self.budget_bytes:
            raise AdapterTooLarge(
                f"The adapter needs {size} bytes, adapter_budget_bytes is {self.budget_bytes}. "
                "Raise adapter_budget_bytes, or train with a lower rank."
            )

    def reserve(self, nbytes: int, *, keep: Collection[str] = ()) -> Sequence[str] | None:
        """Reserve room, evicting idle adapters outside ``keep`` as needed; which ones.

        None, and nothing is evicted, where adapters in use or in ``keep`` leave too little.
        """
        going: list[str] = []
        free = self.budget_bytes - self.nbytes
        for revision, adapter in self._resident.items():
            if free >= nbytes:
                break
            if revision not in self._uses and revision not in keep:
                going.append(revision)
                free += adapter.nbytes
        if free < nbytes:
            return None
        for revision in going:
            self.evict(revision)
        self._reserved += nbytes
        return going

    def release_reserved(self, nbytes: int) -> None:
        """Give reserved room back."""
        self._reserved -= nbytes

    def commit(self, adapter: ResidentAdapter) -> None:
        """Make an adapter resident in the room that was reserved for its bytes."""
        self._router.attach(adapter)
        self._resident[adapter.revision] = adapter
        self._reserved -= adapter.nbytes
        self._resident_bytes += adapter.nbytes
        self.loads += 1

    def evict(self, revision: str) -> None:
        """Free an idle adapter's memory."""
        if revision in self._uses:
            raise RuntimeError(f"revision {revision} is in use")
        adapter = self._resident.pop(revision)
        self._router.detach(adapter)
        self._resident_bytes -= adapter.nbytes
        self.evictions += 1

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
