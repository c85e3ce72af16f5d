"""Prompts, computed in pieces that several rows of different chains may share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import mlx.core as mx

from adapters.lora.routes import Route
from server.core.messages import Failed, Pooled, PromptLogprobs
from server.core.prefix import common_prefix
from server.core.schedule import plan_prefill
from server.engine.prefix import BLOCK, Held, PrefixCache
from server.engine.report import prompt_logprobs
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

    ``plain`` tells that it was without reports, which take time of their own.
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
    """

    def __init__(self, forward: Forward, prefix: PrefixCache, *, most_rows: int) -> None:
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
        self.rows.append(row)

    def remove(self, row: Row) -> None:
        """Forget a row and its cache."""
        self.rows.remove(row)
        row.caches = None

    def run(self, budget: int) -> Progress:
        """Compute one piece of at most ``budget`` tokens."""
        for row in self.rows:
            if row.caches is None and not self._awaits_prefix(row):
                self._begin(row)
        waiting = [row for row in self.rows if row.caches is not None and row.to_prefill]
        if not waiting:
            return Progress()
        reports = waiting[0].reports
        if reports:
            budget = min(budget, max(1, _LOGITS_BYTES // (4 * self._forward.vocabulary)))
        waiting = [row for row in waiting if row.reports == reports]
        piece = plan_prefill(
            [row.to_prefill for row in waiting], budget=budget, most_rows=self._most_rows
        )
        chosen = [waiting[index] for index in piece.rows]
        lengths = [min(row.to_prefill, piece.tokens_per_row) for row in chosen]
        made = self._compute(chosen, lengths)
        found = _report(chosen, lengths, made) if reports else _pool(chosen, lengths, made)
        for row in chosen:
            self._keep(row)
        self.rows = [row for row in self.rows if row not in chosen] + chosen
        return Progress(sum(lengths), not reports, found)

    def take_done(self) -> list[Row]:
        """Remove and return the rows that are ready to decode."""
        done = [row for row in self.rows if row.caches is not None and not row.to_prefill]
        self.rows = [row for row in self.rows if row not in done]
        return done

    def _begin(self, row: Row) -> None:
        row.caches = self._forward.make_caches()
        row.cached = self._prefix.fill(row.caches, row.request.revision, row.reusable)
        if row.reused is None:
            row.reused = row.cached

    def _awaits_prefix(self, row: Row) -> bool:
        """Whether a row that has begun is yet to compute a whole block that ``row`` needs too."""
        return self._prefix.budget_bytes > 0 and any(
            other.is_kept
            and other.caches is not None
            and other.request.revision == row.request.revision
            and other.cached < common_prefix(other.tokens[:-1], row.reusable) // BLOCK * BLOCK
            for other in self.rows
        )

    def _keep(self, row: Row) -> None:
        """Keep what is computed: whole blocks, and at the prompt's end the rest too."""
        length = row.cached - row.cached % BLOCK if row.to_prefill else row.cached
        if row.is_kept:
            held = Held(_caches(row), index=0, padding=0, length=length)
            row.is_kept = self._prefix.keep(held, row.request.revision, row.tokens)

    def _compute(self, rows: list[Row], lengths: list[int]) -> mx.array:
        """Fill the rows' caches; what the model makes (rows, longest, …), not evaluated.

        That is hidden states where a row is pooled, else logits.
        """
        pooled = any(row.request.pooled for row in rows)
        forward = self._forward.hidden if pooled else self._forward
        route = self._forward.router.plan([row.adapter for row in rows])
        pieces = [
            list(row.tokens[row.cached : row.cached + length])
            for row, length in zip(rows, lengths, strict=True)
        ]
        if len(rows) == 1:
            caches = _caches(rows[0])
            made = forward(mx.array(pieces), caches, route)
            mx.eval([cache.state for cache in caches])
        else:
            made = self._compute_together(forward, rows, pieces, route)
        for row, length in zip(rows, lengths, strict=True):
            row.cached += length
        return made

    @staticmethod
    def _compute_together(
        forward: Run, rows: list[Row], pieces: list[list[int]], route: Route
    ) -> mx.array:
        """Pad on the right, let the caches roll the padding away, hand each row its own cache."""
        longest = max(len(piece) for piece in pieces)
        padding = [longest - len(piece) for piece in pieces]
        caches = merge([_caches(row) for row in rows])
        for cache in caches:
            if any(padding):
                cache.prepare(lengths=[len(piece) for piece in pieces], right_padding=padding)
        tokens = mx.array([piece + [0] * pad for piece, pad in zip(pieces, padding, strict=True)])
        made = forward(tokens, caches, route)
        for cache in caches:
            if any(padding):
                cache.finalize()
        mx.eval([cache.state for cache in caches])
        for index, row in enumerate(rows):
            row.caches = [cache.extract(index) for cache in caches]
        mx.eval([cache.state for row in rows for cache in _caches(row)])
        return made


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
            found.append((row, Pooled(tuple(values)) if all(map(isfinite, values)) else failed))
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
