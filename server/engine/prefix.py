"""The KV of prefixes that may come again, kept between requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from server.core.prefix import Match, PrefixIndex
from server.engine.residual import Cut, Stream

BLOCK = 64
"""Tokens of a block. Sequences that part inside a block each hold a copy of its beginning."""


@dataclass(frozen=True, slots=True)
class Held:
    """One row of a list of caches, one per layer: ``length`` tokens behind ``padding`` others."""

    caches: Sequence[Any]
    index: int
    padding: int
    length: int

    def planes(self, caches: slice, start: int, stop: int) -> list[mx.array]:
        """Keys and values of these tokens, (1, heads, tokens, size), not copied."""
        rows = slice(self.index, self.index + 1)
        columns = slice(self.padding + start, self.padding + stop)
        return [
            plane[rows, :, columns]
            for cache in self.caches[caches]
            for plane in (cache.keys, cache.values)
        ]


@dataclass(frozen=True, slots=True)
class _Below:
    """The key of what the blocks below a cut hold."""

    cut: Cut


@dataclass(frozen=True, slots=True)
class _At:
    """The key of the residual stream at a cut."""

    cut: Cut


@dataclass(frozen=True, slots=True)
class _Block:
    """Copies of the planes of some tokens; those of one shape, at ``places``, are stacked."""

    places: tuple[tuple[int, ...], ...]
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
        self.hits = 0
        self.reused_tokens = 0
        self.shared_tokens = 0

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

    def fill(
        self,
        caches: Sequence[Any],
        revision: str | None,
        tokens: Sequence[int],
        *,
        cut: Cut | None = None,
    ) -> tuple[int, Stream | None]:
        """Put the longest kept prefix of ``tokens`` into a row's blank caches; its length.

        With a ``cut``, the caches below it may hold more, at least a block: as far as the residual
        stream goes that comes with it. None where the stream of what follows would have a gap.
        """
        if cut is None:
            match = self._index.match(revision, tokens)
            self._count(match.length)
            _restore(caches, match, match.length)
            return match.length, None
        below, stream = self._index.match(_Below(cut), tokens), self._index.match(_At(cut), tokens)
        above = self._index.match(revision, tokens)
        length = min(below.length, above.length)
        end = min(below.length, stream.length)
        if end < length + BLOCK:
            end = length
        self._count(length)
        self.shared_tokens += end - length
        _restore(caches[cut.caches :], above, length)
        _restore(caches[: cut.caches], below, end)
        if stream.length < length:
            return length, None
        start = length - length % BLOCK
        rows = _joined(stream)[0][0][:, start:end] if end > start else None
        return length, Stream(cut, start, rows)

    def keep(
        self,
        held: Held,
        revision: str | None,
        tokens: Sequence[int],
        *,
        cut: Cut | None = None,
        stream: Stream | None = None,
    ) -> bool:
        """Keep the KV of ``tokens`` as far as the caches hold them; whether the budget allows it.

        Where it does not, their beginning is kept. With a ``cut``, what lies below it is kept for
        every revision that has the same, and so is ``stream``, which reaches as far.
        """
        wanted = min(len(tokens), held.length)
        tokens = tokens[: min(wanted, self._most_tokens(held, stream))]
        parts: dict[Hashable, slice] = {revision: slice(None)}
        if cut is not None:
            parts = {_Below(cut): slice(cut.caches), revision: slice(cut.caches, None)}
        added: list[_Block] = []
        for key, caches in parts.items():

            def copy(start: int, stop: int, caches: slice = caches) -> _Block:
                return _copied(held.planes(caches, start, stop))

            added += self._index.add(key, tokens, copy)
        if stream is not None and self._reaches(stream, tokens):
            added += self._index.add(
                _At(stream.cut), tokens, lambda start, stop: _copied([stream.part(start, stop)])
            )
        mx.eval([block.stacks for block in added])
        return all(self._index.match(key, tokens).length == wanted for key in parts)

    def _most_tokens(self, held: Held, stream: Stream | None) -> int:
        """How many tokens of a row fit the budget with all that is kept of each."""
        planes = held.planes(slice(None), 0, 1) if held.length else []
        if stream is not None and stream.rows is not None:
            planes.append(stream.rows[:, :1])
        return self.budget_bytes // max(1, sum(plane.nbytes for plane in planes))

    def _reaches(self, stream: Stream, tokens: Sequence[int]) -> bool:
        """Whether the stream goes on without a gap from what is kept: some may have gone."""
        known = tokens[: stream.start]
        return self._index.match(_At(stream.cut), known).length == len(known)

    def _count(self, length: int) -> None:
        self.hits += length > 0
        self.reused_tokens += length

    def forget(self, revision: str) -> None:
        """Keep nothing of a revision that is gone."""
        self._index.forget(revision)


def _copied(planes: Sequence[mx.array]) -> _Block:
    """A block of copies."""
    places: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, plane in enumerate(planes):
        places[(plane.shape, plane.dtype)].append(place)
    stacks = tuple(_stack([planes[place] for place in each]) for each in places.values())
    return _Block(tuple(map(tuple, places.values())), stacks)


def _joined(match: Match[_Block]) -> list[mx.array]:
    """The stacks of all blocks, one after the other."""
    stacks = zip(*(block.stacks for block in match.values), strict=True)
    return [mx.concatenate(list(each), axis=-2) for each in stacks]


def _restore(caches: Sequence[Any], match: Match[_Block], length: int) -> None:
    """Put the first ``length`` tokens of what was found into blank caches."""
    if not length:
        return
    planes: dict[int, mx.array] = {}
    for places, stack in zip(match.values[0].places, _joined(match), strict=True):
        planes.update(zip(places, stack[..., :length, :], strict=True))
    for layer, cache in enumerate(caches):
        cache.keys, cache.values = planes[2 * layer], planes[2 * layer + 1]
        cache.offset = length
    mx.eval(list(planes.values()))


def _stack(planes: list[mx.array]) -> mx.array:
    """A copy of the planes, one after the other."""
    if len(planes) > 1:
        return mx.stack(planes)
    # MLX would stack a single array as a view, which keeps the whole cache alive.
    return mx.take(planes[0], mx.arange(planes[0].shape[-2]), axis=-2)[None]
