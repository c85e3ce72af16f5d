"""How the rows of one forward find their low-rank updates.

A route is made once per batch composition and applied by every routed layer of the forward. Two
forms compute the same sum ``y + (x @ A) @ (scale * B)`` row by row (Hu et al. 2021, eq. 3):

* ``UniformRoute``: all rows share one adapter; two plain products.
* ``GatherRoute``: any mixture; each row by its own matrices out of a stack.

Modules that share an input share its product with A: see ``ResidentAdapter``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from adapters.lora.resident import Pair, ResidentAdapter

Row = ResidentAdapter | None


class Route(Protocol):
    """The low-rank updates of one forward."""

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` plus each row's update for module ``path``; both are (rows, length, …)."""
        ...


class BareRoute:
    """No row has an adapter."""

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` itself."""
        del path, x
        return y


class UniformRoute:
    """Every row has the same adapter."""

    def __init__(self, adapter: ResidentAdapter) -> None:
        self._adapter = adapter
        self._shared = _Shared()

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` plus one adapter's update."""
        update = self._adapter.modules.get(path)
        if update is None:
            return y
        low = self._shared.of(update.input, x, lambda: x @ self._adapter.inputs[update.input])
        return mx.addmm(y, low[..., update.start : update.stop], update.b)


class Mixture:
    """The arrays of several adapters in stacks, and behind them zeros: the base's update.

    Built at an input's first use and kept.
    """

    def __init__(self, adapters: Sequence[ResidentAdapter]) -> None:
        self.adapters = tuple(adapters)
        self._stacks: dict[str, Stack] = {}
        self._of_path: dict[str, Stack | None] = {}

    @property
    def rank(self) -> int:
        """The sum of the adapters' ranks."""
        return sum(adapter.rank for adapter in self.adapters)

    @property
    def nbytes(self) -> int:
        """Bytes of the stacks made so far."""
        return sum(stack.nbytes for stack in self._stacks.values())

    def stack(self, path: str) -> Stack | None:
        """The stack of a module's input; None where no adapter targets the module."""
        if path not in self._of_path:
            updates = (adapter.modules.get(path) for adapter in self.adapters)
            name = next((update.input for update in updates if update is not None), None)
            if name is not None and name not in self._stacks:
                self._stacks[name] = Stack.of(name, self.adapters)
            self._of_path[path] = None if name is None else self._stacks[name]
        return self._of_path[path]


@dataclass(frozen=True, slots=True)
class Stack:
    """One input of k adapters: A (k + 1, in, columns), and for each module its columns and B.

    B is (k + 1, rank, out), where rank is the highest that one of them has there. What an adapter
    lacks is zero, and so is the last of each stack.
    """

    name: str
    a: mx.array
    modules: Mapping[str, tuple[slice, mx.array]]

    @classmethod
    def of(cls, name: str, adapters: Sequence[ResidentAdapter]) -> Stack:
        """The input ``name`` of several adapters, at least one of which has it."""
        paths = dict.fromkeys(
            path
            for adapter in adapters
            for path, update in adapter.modules.items()
            if update.input == name
        )
        columns: list[mx.array] = []
        modules: dict[str, tuple[slice, mx.array]] = {}
        start = 0
        for path in paths:
            pairs = [adapter.pair(path) for adapter in adapters]
            rank, a, b = _padded(pairs)
            columns.append(a)
            modules[path] = (slice(start, start + rank), b)
            start += rank
        return cls(name, mx.concatenate(columns, axis=-1), modules)

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self.a.nbytes + sum(b.nbytes for _, b in self.modules.values())


def _padded(pairs: Sequence[Pair | None]) -> tuple[int, mx.array, mx.array]:
    """The highest rank, and A and B of all pairs, filled up to it, with zeros for who has none."""
    present = [pair for pair in pairs if pair is not None]
    rank = max(a.shape[1] for a, _ in present)
    first_a, first_b = present[0]
    no_a = mx.zeros((first_a.shape[0], rank), first_a.dtype)
    no_b = mx.zeros((rank, first_b.shape[1]), first_b.dtype)
    all_a, all_b = [], []
    for pair in [*pairs, None]:
        a, b = pair or (no_a, no_b)
        missing = rank - a.shape[1]
        all_a.append(mx.pad(a, [(0, 0), (0, missing)]) if missing else a)
        all_b.append(mx.pad(b, [(0, missing), (0, 0)]) if missing else b)
    return rank, mx.stack(all_a), mx.stack(all_b)


class GatherRoute:
    """Rows in any order over the adapters of a mixture."""

    def __init__(self, rows: Sequence[Row], mixture: Mixture) -> None:
        place = {adapter: index for index, adapter in enumerate(mixture.adapters)}
        base = len(mixture.adapters)
        self._rows = mx.array([base if row is None else place[row] for row in rows], mx.uint32)
        self._mixture = mixture
        self._shared = _Shared()

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` plus each row's update. No row meets another one's adapter, not even times zero."""
        stack = self._mixture.stack(path)
        if stack is None:
            return y
        low = self._shared.of(stack.name, x, lambda: self._times(x, stack.a))
        columns, b = stack.modules[path]
        return y + self._times(low[..., columns], b)

    def _times(self, x: mx.array, stacked: mx.array) -> mx.array:
        """Each row of ``x`` (rows, length, in) times its own matrix."""
        return mx.gather_mm(x, stacked, rhs_indices=self._rows)


class _Shared:
    """The product of the input that was asked for last: its modules follow one another."""

    def __init__(self) -> None:
        self._of: tuple[str, mx.array] | None = None
        self._product = mx.array(0)

    def of(self, name: str, x: mx.array, product: Callable[[], mx.array]) -> mx.array:
        """``product()``, made anew unless it was made for this input and this very ``x``."""
        if self._of is None or self._of[0] != name or self._of[1] is not x:
            self._of, self._product = (name, x), product()
        return self._product
