"""Prompts, computed in pieces that several rows of different chains may share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from adapters.lora.routes import Route
from server.core.messages import Failed, Pooled, PromptLogprobs
from server.core.prefix import common_prefix
from server.core.schedule import plan_prefill
from server.engine.cut import Cuts
from server.engine.prefix import BLOCK, Held, PrefixCache
from server.engine.report import prompt_logprobs
from server.engine.residual import Cut
from server.engine.rows import Forward, Row, merge

Run = Callable[[mx.array, Sequence[Any], Route], mx.array]
"""A forward: logits or states of tokens."""

_PROBE_TOKENS = 32
_LOGITS_BYTES = 1 << 26
"""Float32 logits of one piece, where its rows report their prompts."""


Reported = tuple[Row, PromptLogprobs | Pooled | Failed]
"""A row and a stretch of its prompt or its mean state, or why it ends where they are no numbers."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a piece has done: prompt tokens computed, and what its rows report of them.

    ``plain`` tells that it was without reports and through all blocks: others take a time of their
    own.
    """

    tokens: int = 0
    plain: bool = True
    reports: tuple[Reported, ...] = ()


class Prefill:
    """Rows whose prompts are being computed. The row that was served last goes to the back.

    A row that reports its prompt shares its pieces with such rows alone, since only their logits
    are computed, and a piece of theirs is as short as the memory for logits asks. A row that is
    pooled shares pieces with all others: the forward ends before the logits, which nobody needs.
    Of its states nothing but their sum is kept from piece to piece.

    A row begins behind the longest prefix that is kept. While another row computes a longer one,
    it waits for that: rows that arrive together compute what they share once.

    A row that finds more below its cut than above it enters there: pieces of such rows begin at the
    cut, and as many tokens more fit one as there are blocks less.
    """

    def __init__(
        self, forward: Forward, prefix: PrefixCache, cuts: Cuts | None, *, most_rows: int
    ) -> None:
        """Without ``cuts`` rows share with their own revision alone."""
        self._cuts = cuts
        self._forward = forward
        self._prefix = prefix
        self._most_rows = most_rows
        self.rows: list[Row] = []

    @property
    def kv_bytes(self) -> int:
        """Bytes of the rows' KV caches."""
        return sum(cache.nbytes for row in self.rows for cache in row.caches or ())

    def add(self, row: Row) -> None:
        """Start a row; its adapter is resident."""
        row.cut = None if self._cuts is None else self._cuts.cut(row.adapter)
        self.rows.append(row)

    def remove(self, row: Row) -> None:
        """Forget a row and its cache."""
        self.rows.remove(row)
        row.caches = row.stream = None

    def run(self, budget: int, *, overhead: float) -> Progress:
        """Compute one piece of at most ``budget`` tokens; see ``plan_prefill`` for both."""
        for row in self.rows:
            if row.caches is None and not self._awaits_prefix(row):
                self._begin(row)
        waiting = [row for row in self.rows if row.caches is not None and row.to_prefill]
        if not waiting:
            return Progress()
        cut, reports = waiting[0].form
        if reports:
            budget = min(budget, max(1, _LOGITS_BYTES // (4 * self._forward.vocabulary)))
        if cut is not None and self._cuts is not None:
            budget = int(budget / self._cuts.above(cut))
        waiting = [row for row in waiting if row.form == (cut, reports)]
        piece = plan_prefill(
            [row.to_prefill_now for row in waiting],
            budget=budget,
            most_rows=self._most_rows,
            overhead=overhead,
        )
        chosen = [waiting[index] for index in piece.rows]
        lengths = [min(row.to_prefill_now, piece.tokens_per_row) for row in chosen]
        made = self._compute(chosen, lengths, cut)
        found = _report(chosen, lengths, made) if reports else _pool(chosen, lengths, made)
        for row in chosen:
            self._keep(row)
        self.rows = [row for row in self.rows if row not in chosen] + chosen
        return Progress(sum(lengths), not reports and cut is None, found)

    def take_done(self) -> list[Row]:
        """Remove and return the rows that are ready to decode."""
        done = [row for row in self.rows if row.caches is not None and not row.to_prefill]
        self.rows = [row for row in self.rows if row not in done]
        for row in done:
            row.stream = None
        return done

    def _begin(self, row: Row) -> None:
        row.caches = self._forward.make_caches()
        row.cached, row.stream = self._prefix.fill(
            row.caches, row.request.revision, row.reusable, cut=row.cut
        )
        if row.reused is None:
            row.reused = row.cached

    def _awaits_prefix(self, row: Row) -> bool:
        """Whether a row that has begun is yet to compute a whole block that ``row`` needs too."""
        return self._prefix.budget_bytes > 0 and any(
            other.is_kept
            and other.caches is not None
            and _offered(other, row)
            < common_prefix(other.tokens[:-1], row.reusable) // BLOCK * BLOCK
            for other in self.rows
        )

    def _keep(self, row: Row) -> None:
        """Keep what is computed: whole blocks, and at the prompt's end the rest too."""
        length = row.cached - row.cached % BLOCK if row.to_prefill else row.cached
        stream = row.stream
        if row.is_kept:
            held = Held(_caches(row), index=0, padding=0, length=length)
            row.is_kept = self._prefix.keep(
                held, row.request.revision, row.tokens, cut=row.cut, stream=stream
            )
        if stream is not None:
            stream.drop_before(row.cached - row.cached % BLOCK)
            if not row.is_kept and row.entry is None:
                row.stream = None

    def _compute(self, rows: list[Row], lengths: list[int], cut: Cut | None) -> mx.array:
        """Fill the rows' caches; what the model makes (rows, longest, …), not evaluated.

        That is hidden states where a row is pooled, else logits. With a ``cut`` the rows enter
        there.
        """
        longest = max(lengths)
        own = [_caches(row)[0 if cut is None else cut.caches :] for row in rows]
        caches = own[0] if len(rows) == 1 else merge(own)
        padding = [longest - length for length in lengths]
        for cache in caches:
            if any(padding):
                cache.prepare(lengths=lengths, right_padding=padding)
        route = self._forward.router.plan([row.adapter for row in rows])
        tapped: dict[Cut, mx.array] = {}
        if cut is None or self._cuts is None:
            made = self._whole(rows, lengths, caches, route, tapped)
        else:
            made = self._cuts.enter(cut, _entering(rows, lengths), caches, route)
        for cache in caches:
            if any(padding):
                cache.finalize()
        mx.eval([cache.state for cache in caches], list(tapped.values()))
        if len(rows) > 1:
            for index, row in enumerate(rows):
                below = [] if cut is None else _caches(row)[: cut.caches]
                row.caches = [*below, *(cache.extract(index) for cache in caches)]
            mx.eval([cache.state for row in rows for cache in _caches(row)])
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            row.cached += length
            if row.stream is not None and row.stream.cut in tapped:
                row.stream.extend(tapped[row.stream.cut][index : index + 1, :length])
        return made

    def _whole(
        self,
        rows: Sequence[Row],
        lengths: Sequence[int],
        caches: Sequence[Any],
        route: Route,
        tapped: dict[Cut, mx.array],
    ) -> mx.array:
        """Through all blocks; leaves the residual stream at the cuts whose rows are kept."""
        forward = self._forward
        run: Run = forward.hidden if any(row.request.pooled for row in rows) else forward
        longest = max(lengths)
        tokens = mx.array(
            [
                [*row.tokens[row.cached : row.cached + length], *[0] * (longest - length)]
                for row, length in zip(rows, lengths, strict=True)
            ]
        )
        cuts = {row.stream.cut for row in rows if row.stream is not None}
        if self._cuts is None or not cuts:
            return run(tokens, caches, route)
        with self._cuts.tapping(cuts, tapped):
            return run(tokens, caches, route)


def _entering(rows: Sequence[Row], lengths: Sequence[int]) -> mx.array:
    """The rows' residual streams (rows, longest, width), padded on the right."""
    longest = max(lengths)
    streams = [
        mx.pad(
            stream.part(row.cached, row.cached + length), [(0, 0), (0, longest - length), (0, 0)]
        )
        for row, length in zip(rows, lengths, strict=True)
        if (stream := row.stream) is not None
    ]
    return mx.concatenate(streams)


def _offered(other: Row, row: Row) -> float:
    """How much of its prompt ``other`` has computed of what it will leave to ``row``."""
    if other.request.revision == row.request.revision:
        return other.cached
    if other.stream is None or other.cut != row.cut:
        return math.inf
    return max(other.cached, other.stream.stop)


def _report(rows: Sequence[Row], lengths: Sequence[int], logits: mx.array) -> tuple[Reported, ...]:
    """What the rows' prompts say in the piece of ``lengths`` tokens that was just computed."""
    found: list[Reported] = []
    for row, length, each in zip(rows, lengths, logits, strict=True):
        follows = row.tokens[row.cached - length + 1 : row.cached + 1]
        logprobs = prompt_logprobs(each[:length], follows, row.request.prompt_logprobs or 0)
        failed = Failed(row.not_finite())
        row.reported += length
        found.append((row, failed if logprobs is None else PromptLogprobs(logprobs)))
    return tuple(found)


def _pool(rows: Sequence[Row], lengths: Sequence[int], states: mx.array) -> tuple[Reported, ...]:
    """Add the piece's states to the sums of the rows that are pooled; the means that are whole."""
    found: list[Reported] = []
    for row, length, each in zip(rows, lengths, states, strict=True):
        if not row.request.pooled:
            continue
        added = each[:length].astype(mx.float32).sum(axis=0)
        row.pooled = added if row.pooled is None else row.pooled + added
        mx.eval(row.pooled)
        if not row.to_prefill:
            values: Any = (row.pooled / len(row.tokens)).tolist()
            failed = Failed(row.not_finite())
            found.append(
                (row, Pooled(tuple(values)) if all(map(math.isfinite, values)) else failed)
            )
    return tuple(found)


def _caches(row: Row) -> list[Any]:
    if row.caches is None:
        raise RuntimeError(f"row {row.request.request_id} has no cache")
    return row.caches


def measure_prefill(forward: Forward) -> tuple[float, float]:
    """Fixed seconds of a piece, and its tokens per second beyond them; a warm-up comes first."""
    _timed(forward, _PROBE_TOKENS)
    one, many = _timed(forward, 1), _timed(forward, _PROBE_TOKENS)
    # Where a probe was held up, many tokens may seem to take no longer than one.
    fixed = min(one, many / 2)
    return fixed, _PROBE_TOKENS / (many - fixed)


def _timed(forward: Forward, tokens: int) -> float:
    began = time.perf_counter()
    caches = forward.make_caches()
    forward(mx.zeros((1, tokens), mx.int32), caches, forward.router.plan([None]))
    mx.eval([cache.state for cache in caches])
    return time.perf_counter() - began
