"""The KV of prefixes that may come again, kept between requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from server.core.prefix import PrefixIndex

BLOCK = 64
"""Tokens of a block. Sequences that part inside a block each hold a copy of its beginning."""


@dataclass(frozen=True, slots=True)
class Held:
    """One row of a list of caches, one per layer: ``length`` tokens behind ``padding`` others."""

    caches: Sequence[Any]
    index: int
    padding: int
    length: int

    def planes(self, start: int, stop: int) -> list[mx.array]:
        """Each layer's keys and values of these tokens, (1, heads, tokens, size), not copied."""
        rows = slice(self.index, self.index + 1)
        columns = slice(self.padding + start, self.padding + stop)
        return [
            plane[rows, :, columns] for cache in self.caches for plane in (cache.keys, cache.values)
        ]


@dataclass(frozen=True, slots=True)
class _Block:
    """Copies of the planes of some tokens, those of one shape stacked."""

    stacks: tuple[mx.array, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the copies, which keep no larger array alive."""
        return sum(stack.nbytes for stack in self.stacks)


class PrefixCache:
    """Reuse of the longest common prefix between rows of one revision; device thread only.

    Needs caches that can be cut at any token. A model that has others, for a sliding window or a
    recurrent state, is served without: then ``budget_bytes`` is 0, as where it is switched off.
    """

    def __init__(self, blank: Sequence[Any], *, budget_bytes: int) -> None:
        """``blank`` are the empty caches of one row."""
        can_be_cut = all(type(cache) is KVCache for cache in blank)
        self._index: PrefixIndex[_Block] = PrefixIndex(
            budget_bytes=budget_bytes if can_be_cut else 0, block=BLOCK
        )
        self._shapes: list[list[int]] = []
        self.hits = 0
        self.reused_tokens = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return self._index.nbytes

    @property
    def budget_bytes(self) -> int:
        """Bytes that may be kept."""
        return self._index.budget_bytes

    def fill(self, caches: Sequence[Any], revision: str | None, tokens: Sequence[int]) -> int:
        """Put the longest kept prefix of ``tokens`` into a row's blank caches; its length."""
        match = self._index.match(revision, tokens)
        if not match.length:
            return 0
        self.hits += 1
        self.reused_tokens += match.length
        planes: dict[int, mx.array] = {}
        for places, blocks in zip(
            self._shapes, zip(*(block.stacks for block in match.values), strict=True), strict=True
        ):
            stack = mx.concatenate(list(blocks), axis=-2)[..., : match.length, :]
            planes.update(zip(places, stack, strict=True))
        for layer, cache in enumerate(caches):
            cache.keys, cache.values = planes[2 * layer], planes[2 * layer + 1]
            cache.offset = match.length
        mx.eval(list(planes.values()))
        return match.length

    def keep(self, held: Held, revision: str | None, tokens: Sequence[int]) -> bool:
        """Keep the KV of ``tokens`` as far as the caches hold them; whether the budget allows it.

        Where it does not, their beginning is kept.
        """

        def copy(start: int, stop: int) -> _Block:
            planes = held.planes(start, stop)
            if not self._shapes:
                self._shapes = _by_shape(planes)
            return _Block(
                tuple(_stack([planes[place] for place in places]) for places in self._shapes)
            )

        tokens = tokens[: held.length]
        added = self._index.add(revision, tokens, copy)
        mx.eval([block.stacks for block in added])
        return self._index.match(revision, tokens).length == len(tokens)

    def forget(self, revision: str) -> None:
        """Keep nothing of a revision that is gone."""
        self._index.forget(revision)


def _by_shape(planes: Sequence[mx.array]) -> list[list[int]]:
    """The places of planes that can be stacked."""
    places: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, plane in enumerate(planes):
        places[(plane.shape, plane.dtype)].append(place)
    return list(places.values())


def _stack(planes: list[mx.array]) -> mx.array:
    """A copy of the planes, one after the other."""
    if len(planes) > 1:
        return mx.stack(planes)
    # MLX would stack a single array as a view, which keeps the whole cache alive.
    return mx.take(planes[0], mx.arange(planes[0].shape[-2]), axis=-2)[None]
