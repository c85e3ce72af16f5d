"""One adapter as the device holds it."""

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


def make_resident(revision: str, files: AdapterFiles, dtype: mx.Dtype) -> ResidentAdapter:
    """Copy an adapter to the device in the base's compute type, evaluated; device thread only.

    The cast keeps a float32 adapter from turning a 16-bit base into float32. ``scale`` is folded
    into B in float32 before the cast.
    """
    modules: dict[str, tuple[mx.array, mx.array]] = {}
    for path, (a, b) in files.tensors.items():
        scaled = files.scale * to_mlx(b).astype(mx.float32)
        modules[path] = (to_mlx(a).astype(dtype), scaled.astype(dtype))
    mx.eval(list(modules.values()))
    return ResidentAdapter(revision, modules)
