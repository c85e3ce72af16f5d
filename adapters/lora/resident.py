"""One adapter as the device holds it, and its way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from adapters.formats.arrays import to_mlx
from adapters.formats.mlx_lm import AdapterFiles


@dataclass(frozen=True, slots=True, eq=False)
class ResidentAdapter:
    """Arrays on the device by module path: A (in, rank) and ``scale * B`` (rank, out).

    Compared and hashed by identity: a revision that is evicted and loaded again is another object.
    """

    revision: str
    modules: Mapping[str, tuple[mx.array, mx.array]]
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        total = sum(a.nbytes + b.nbytes for a, b in self.modules.values())
        object.__setattr__(self, "nbytes", total)

    @property
    def rank(self) -> int:
        """The widest rank among the modules."""
        return max(a.shape[1] for a, _ in self.modules.values())


class Upload:
    """An adapter on its way to the device, in pieces between which the device can serve.

    The cast keeps a float32 adapter from turning a 16-bit base into float32. ``scale`` is folded
    into B in float32 before the cast. Device thread only.
    """

    def __init__(self, revision: str, files: AdapterFiles, dtype: mx.Dtype) -> None:
        self.revision = revision
        self.nbytes = device_nbytes(files, dtype)
        """What it takes on the device once it is there."""
        self._scale, self._dtype = files.scale, dtype
        self._left = list(files.tensors.items())
        self._modules: dict[str, tuple[mx.array, mx.array]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether everything is on the device."""
        return not self._left

    def advance(self, nbytes: int) -> int:
        """Copy and evaluate modules until at least ``nbytes`` or all are done; the bytes copied."""
        made: list[tuple[mx.array, mx.array]] = []
        copied = 0
        while self._left and copied < nbytes:
            path, (a, b) = self._left.pop()
            scaled = self._scale * to_mlx(b).astype(mx.float32)
            pair = (to_mlx(a).astype(self._dtype), scaled.astype(self._dtype))
            self._modules[path] = pair
            made.append(pair)
            copied += (a.size + b.size) * self._dtype.size
        mx.eval(made)
        return copied

    def resident(self) -> ResidentAdapter:
        """The adapter, once it is whole."""
        return ResidentAdapter(self.revision, self._modules)


def make_resident(revision: str, files: AdapterFiles, dtype: mx.Dtype) -> ResidentAdapter:
    """Copy an adapter to the device in one go; device thread only."""
    upload = Upload(revision, files, dtype)
    upload.advance(upload.nbytes)
    return upload.resident()


def device_nbytes(files: AdapterFiles, dtype: mx.Dtype) -> int:
    """Bytes that an adapter takes on the device in ``dtype``."""
    return sum(a.size + b.size for a, b in files.tensors.values()) * dtype.size
