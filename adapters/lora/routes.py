"""How the rows of one forward find their low-rank updates.

A route is made once per batch composition and applied by every routed layer of the forward. Three
forms compute the same sum ``y + (x @ A) @ (scale * B)`` row by row (Hu et al. 2021, eq. 3):

* ``UniformRoute``: all rows share one adapter; two plain products.
* ``SegmentRoute``: rows of one adapter lie side by side, many tokens each (prefill); two plain
  products a segment.
* ``WideRoute``: any mixture, few tokens (decode); the ranks of all adapters side by side in one
  product, and a row mask between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from adapters.lora.resident import ResidentAdapter

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
        self._modules = adapter.modules

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` plus one adapter's update."""
        pair = self._modules.get(path)
        return y if pair is None else y + (x @ pair[0]) @ pair[1]


class SegmentRoute:
    """Runs of neighbouring rows with one adapter (or none) each."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._runs = runs(rows)

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` plus, for each run, its adapter's update."""
        parts: list[mx.array] = []
        for start, stop, adapter in self._runs:
            pair = None if adapter is None else adapter.modules.get(path)
            part = y[start:stop]
            parts.append(part if pair is None else part + (x[start:stop] @ pair[0]) @ pair[1])
        return mx.concatenate(parts, axis=0)


class Mixture:
    """The ranks of several adapters side by side: per module, A (in, R) and B (R, out).

    ``R`` is the sum of the ranks of those adapters that target the module; no row is padded to a
    rank that its batch does not hold. Built per module on first use and kept.
    """

    def __init__(self, adapters: Sequence[ResidentAdapter]) -> None:
        self.adapters = tuple(adapters)
        self._wide: dict[str, tuple[mx.array, mx.array, tuple[tuple[int, int], ...]]] = {}

    @property
    def rank(self) -> int:
        """The columns of the widest module, at most."""
        return sum(adapter.rank for adapter in self.adapters)

    @property
    def nbytes(self) -> int:
        """Bytes of the side-by-side copies made so far."""
        return sum(a.nbytes + b.nbytes for a, b, _ in self._wide.values())

    def module(self, path: str) -> tuple[mx.array, mx.array, tuple[tuple[int, int], ...]] | None:
        """Wide A, wide B and the owner of each run of columns: (adapter index, rank)."""
        found = self._wide.get(path)
        if found is None:
            pairs = [
                (index, adapter.modules[path])
                for index, adapter in enumerate(self.adapters)
                if path in adapter.modules
            ]
            if not pairs:
                return None
            a = mx.concatenate([pair[0] for _, pair in pairs], axis=1)
            b = mx.concatenate([pair[1] for _, pair in pairs], axis=0)
            found = (a, b, tuple((index, pair[0].shape[1]) for index, pair in pairs))
            self._wide[path] = found
        return found


class WideRoute:
    """Rows in any order over the adapters of a mixture."""

    def __init__(self, rows: Sequence[Row], mixture: Mixture) -> None:
        place = {adapter: index for index, adapter in enumerate(mixture.adapters)}
        self._rows = [-1 if row is None else place[row] for row in rows]
        self._mixture = mixture
        self._masks: dict[tuple[tuple[int, int], ...], mx.array] = {}

    def add(self, path: str, x: mx.array, y: mx.array) -> mx.array:
        """``y`` plus each row's update; other adapters' columns are cut, not multiplied by zero.

        Cutting matters: zero times an overflow in another row's adapter would be NaN here.
        """
        module = self._mixture.module(path)
        if module is None:
            return y
        a, b, owners = module
        return y + mx.where(self._mask(owners), x @ a, mx.array(0, x.dtype)) @ b

    def _mask(self, owners: tuple[tuple[int, int], ...]) -> mx.array:
        mask = self._masks.get(owners)
        if mask is None:
            columns = [index for index, rank in owners for _ in range(rank)]
            mask = (mx.array(self._rows)[:, None] == mx.array(columns)[None, :])[:, None, :]
            self._masks[owners] = mask
        return mask


def runs(rows: Sequence[Row]) -> list[tuple[int, int, Row]]:
    """Maximal runs of equal neighbours as (start, stop, adapter)."""
    found: list[tuple[int, int, Row]] = []
    for index, row in enumerate(rows):
        if found and found[-1][2] is row:
            found[-1] = (found[-1][0], index + 1, row)
        else:
            found.append((index, index + 1, row))
    return found
