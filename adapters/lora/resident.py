"""One adapter as the device holds it, and its way there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from adapters.formats.arrays import to_mlx
from adapters.formats.mlx_lm import AdapterFiles

Pair = tuple[mx.array, mx.array]
"""A (in, rank) and ``scale * B`` (rank, out) of one module."""

# Modules that mlx-lm's models give the same input. The routes check that they did.
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class Update:
    """The low-rank update of one module: its columns in the A of its input, and B (rank, out)."""

    input: str
    start: int
    stop: int
    b: mx.array

    @property
    def rank(self) -> int:
        """The rank of this module's update."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class ResidentAdapter:
    """Arrays on the device: an A (in, ranks) for each input, ``scale * B`` for each module's path.

    Modules with the same input have their A side by side, so that one product serves all of them.
    Compared and hashed by identity: a revision that is evicted and loaded again is another object.
    """

    revision: str
    inputs: Mapping[str, mx.array]
    modules: Mapping[str, Update]
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        arrays = [*self.inputs.values(), *(update.b for update in self.modules.values())]
        object.__setattr__(self, "nbytes", sum(array.nbytes for array in arrays))

    @classmethod
    def of(cls, revision: str, pairs: Mapping[str, Pair]) -> ResidentAdapter:
        """An adapter of pairs by module path, all of one type."""
        inputs: dict[str, mx.array] = {}
        modules: dict[str, Update] = {}
        for name, paths in by_input({path: a.shape[0] for path, (a, _) in pairs.items()}).items():
            inputs[name], updates = side_by_side(name, {path: pairs[path] for path in paths})
            modules.update(updates)
        return cls(revision, inputs, modules)

    @property
    def rank(self) -> int:
        """The widest rank among the modules."""
        return max(update.rank for update in self.modules.values())

    def pair(self, path: str) -> Pair | None:
        """A and B of one module; None where the adapter does not target it."""
        update = self.modules.get(path)
        if update is None:
            return None
        return self.inputs[update.input][:, update.start : update.stop], update.b


class Upload:
    """An adapter on its way to the device, in pieces between which the device can serve.

    The cast keeps a float32 adapter from turning a 16-bit base into float32. ``scale`` is folded
    into B in float32 before the cast. Device thread only.
    """

    def __init__(self, revision: str, files: AdapterFiles, dtype: mx.Dtype) -> None:
        self.revision = revision
        self.nbytes = device_nbytes(files, dtype)
        """What it takes on the device once it is there."""
        self._files, self._dtype = files, dtype
        inputs = {path: a.shape[0] for path, (a, _) in files.tensors.items()}
        self._left = list(by_input(inputs).items())
        self._inputs: dict[str, mx.array] = {}
        self._modules: dict[str, Update] = {}

    @property
    def is_whole(self) -> bool:
        """Whether everything is on the device."""
        return not self._left

    def advance(self, nbytes: int) -> int:
        """Copy and evaluate modules until at least ``nbytes`` or all are done; the bytes copied."""
        made: list[mx.array] = []
        while self._left and sum(array.nbytes for array in made) < nbytes:
            name, paths = self._left.pop()
            pairs = {path: self._pair(path) for path in paths}
            self._inputs[name], updates = side_by_side(name, pairs)
            self._modules.update(updates)
            made += [self._inputs[name], *(update.b for update in updates.values())]
        mx.eval(made)
        return sum(array.nbytes for array in made)

    def resident(self) -> ResidentAdapter:
        """The adapter, once it is whole."""
        return ResidentAdapter(self.revision, self._inputs, self._modules)

    def _pair(self, path: str) -> Pair:
        a, b = self._files.tensors[path]
        scaled = self._files.scale * to_mlx(b).astype(mx.float32)
        return to_mlx(a).astype(self._dtype), scaled.astype(self._dtype)


def make_resident(revision: str, files: AdapterFiles, dtype: mx.Dtype) -> ResidentAdapter:
    """Copy an adapter to the device in one go; device thread only."""
    upload = Upload(revision, files, dtype)
    upload.advance(upload.nbytes)
    return upload.resident()


def device_nbytes(files: AdapterFiles, dtype: mx.Dtype) -> int:
    """Bytes that an adapter takes on the device in ``dtype``."""
    return sum(a.size + b.size for a, b in files.tensors.values()) * dtype.size


def by_input(widths: Mapping[str, int]) -> Mapping[str, list[str]]:
    """The paths that share an input, by its name: those that do in mlx-lm's models and are as wide.

    ``widths`` maps a module's path to its number of input features.
    """
    found: dict[str, list[str]] = {}
    for path, width in widths.items():
        parent, _, last = path.rpartition(".")
        shared = next((names for names in _SAME_INPUT if last in names), (last,))
        found.setdefault(f"{parent}.{'|'.join(shared)} ({width})", []).append(path)
    return found


def side_by_side(name: str, pairs: Mapping[str, Pair]) -> tuple[mx.array, dict[str, Update]]:
    """The A of one input, and the updates of its modules."""
    updates: dict[str, Update] = {}
    start = 0
    for path, (a, b) in pairs.items():
        updates[path] = Update(name, start, start + a.shape[1], b)
        start += a.shape[1]
    return _joined(a for a, _ in pairs.values()), updates


def _joined(columns: Iterable[mx.array]) -> mx.array:
    each = list(columns)
    return each[0] if len(each) == 1 else mx.concatenate(each, axis=1)
