"""The decode batch: one token for every row and step, one step ahead of the reader, or several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from adapters.lora.routes import Route
from server.engine.masks import Guide, Masks
from server.engine.prefix import Held
from server.engine.ragged import RaggedKVCache, merge_ragged
from server.engine.report import Report
from server.engine.rows import Forward, Row
from server.engine.sampling import NO_TOKEN, BatchSampler
from server.engine.speculation import Proposals, Speculation
from server.engine.verify import Drawn, verify

_PAUSE = 0.1
"""Of a step: after a longer pause the device has not been busy with steps all the time."""


class DecodeBatch:
    """Rows that decode together, whichever adapter each has.

    A step starts the forward over the tokens drawn last, then reads those tokens while the device
    works. So a row that ends has computed one token too many, and nothing waits for Python.

    Where guessing ahead is expected to win, a step instead reads what was drawn, and the next one
    runs the forward over each row's last token and what is guessed to follow it. A guess stands
    where it is what the row draws at its position, so the tokens are the same either way.

    What a constrained row may draw depends on its last token. Beside one the draw therefore starts
    a moment later: forward, tokens read, masks computed meanwhile, then one draw for all rows.
    """

    def __init__(self, forward: Forward, speculation: Speculation) -> None:
        self._forward = forward
        self._speculation = speculation
        self._masks = Masks(forward.vocabulary)
        self._rows: list[Row] = []
        self._left: set[Row] = set()
        self._caches: list[Any] = []
        self._drawn = mx.array([], mx.int32)
        self._report = Report((), ())
        self._fresh: set[Row] = set()
        self._route: Route | None = None
        self._sampler: BatchSampler | None = None
        self._ended_s = 0.0

    @property
    def rows(self) -> list[Row]:
        """The rows that decode."""
        return [row for row in self._rows if row not in self._left]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the rows' KV caches."""
        return sum(cache.nbytes for cache in self._caches)

    def join(self, rows: Sequence[Row]) -> None:
        """Add rows whose caches hold all but their last token."""
        if not rows:
            return
        self._close_up()
        joining = merge_ragged([row.caches for row in rows if row.caches is not None])
        if self._rows:
            for mine, theirs in zip(self._caches, joining, strict=True):
                mine.extend(theirs)
        else:
            self._caches = joining
        last = mx.array([row.tokens[-1] for row in rows], mx.int32)
        self._drawn = mx.concatenate([self._drawn, last])
        for row in rows:
            row.caches = None
        self._rows.extend(rows)
        self._fresh.update(rows)
        self._route = self._sampler = None

    def leave(self, row: Row) -> None:
        """Remove a row; a token that it drew and nobody read is dropped."""
        if row in self._rows:
            self._left.add(row)
        if not self.rows:
            self._close_up()

    def _close_up(self) -> None:
        """Give up the places of the rows that left: all in one copy of the others' caches."""
        if not self._left:
            return
        keep = [index for index, row in enumerate(self._rows) if row not in self._left]
        if keep:
            for cache in self._caches:
                cache.filter(keep)
            self._drawn = self._drawn[mx.array(keep)]
        else:
            self._caches = []
            self._drawn = mx.array([], mx.int32)
        self._report = self._report.keep(keep)
        self._rows = self.rows
        self._left.clear()
        self._fresh.intersection_update(self._rows)
        self._route = self._sampler = None

    def held(self, row: Row) -> Held:
        """A row's tokens in the caches; waits for the step that runs."""
        index, cache = self._rows.index(row), self._caches[0]
        padding = int(cache.left_padding.tolist()[index])
        return Held(self._caches, index, padding, cache.end_of(index) - padding)

    def step(self) -> list[Drawn]:
        """What the rows drew: none, one or several tokens of each, a row's own in their order.

        The caller adds them to ``generated``, or ends the row, before the next step.
        """
        self._close_up()
        proposals = None
        if all(isinstance(cache, RaggedKVCache) for cache in self._caches):
            proposals = self._speculation.propose(self._rows)
        if proposals is None:
            return self._go_on()
        return self._verify(proposals) if len(self._fresh) == len(self._rows) else self._catch_up()

    def _go_on(self) -> list[Drawn]:
        """Start the next token of every row and return the tokens that were started before.

        A row that has just joined, or whose last token was read already, has none.
        """
        began = time.perf_counter()
        steady = self._is_steady(began)
        last, report = self._drawn, self._report
        # Where there is no token the row runs on with another one, for this step alone.
        inputs = mx.maximum(last, 0)
        logits = self._forward(inputs[:, None], self._caches, self._plan())[:, -1]
        start: Any = mx.async_eval
        drawn, guide = None, None
        if any(row.matcher is not None for row in self._rows):
            start(logits)
            drawn = self._read(last, report)
            guide = self._masks.guide([row.matcher for row in self._rows], [()] * len(self._rows))
        self._drawn, self._report = self._sample(logits, guide)
        start(self._drawn, *self._report.arrays)
        if drawn is None:
            drawn = self._read(last, report)
        self._fresh.clear()
        if steady:
            self._observe(began, length=1)
        self._ended_s = time.perf_counter()
        return drawn

    def _catch_up(self) -> list[Drawn]:
        """Return the tokens that were started before and start nothing."""
        drawn = self._read(self._drawn, self._report)
        self._report = Report((), ())
        self._fresh.update(self._rows)
        return drawn

    def _verify(self, proposals: Proposals) -> list[Drawn]:
        """Run the rows' last tokens and ``proposals`` through one forward; what the rows draw."""
        began = time.perf_counter()
        runs = verify(self._forward, self._plan(), self._caches, self._rows, proposals, self._masks)
        last = [0 if run[-1].token is None else run[-1].token.token for run in runs]
        self._drawn = mx.array(last, mx.int32)
        self._sampler = None
        self._observe(began, length=1 + max(map(len, proposals)))
        self._speculation.count(
            proposed=sum(map(len, proposals)), accepted=sum(map(len, runs)) - len(runs)
        )
        return [drawn for run in runs for drawn in run]

    def _read(self, tokens: mx.array, report: Report) -> list[Drawn]:
        """Wait for the rows' tokens; nothing for those whose token was read already."""
        values: Any = tokens.tolist()
        logprobs = report.read()
        return [
            Drawn.of(row, token, logprobs.get(index))
            for index, (row, token) in enumerate(zip(self._rows, values, strict=True))
            if row not in self._fresh
        ]

    def _observe(self, began: float, *, length: int) -> None:
        """Learn how long a step took."""
        self._speculation.times.observe(len(self._rows), length, time.perf_counter() - began)

    def _is_steady(self, began: float) -> bool:
        """Whether the device works on one step after the other, so that one's length can be seen.

        A row that has just joined, or other work between two steps, hides it.
        """
        pause = began - self._ended_s
        expected = self._speculation.times.expected(len(self._rows), 1)
        return not self._fresh and pause < _PAUSE * expected

    def _plan(self) -> Route:
        if self._route is None:
            adapters = [row.adapter for row in self._rows]
            self._route = self._forward.router.plan(adapters)
        return self._route

    def _sample(self, logits: mx.array, guide: Guide | None) -> tuple[mx.array, Report]:
        if self._sampler is None:
            fresh = mx.array([row in self._fresh for row in self._rows])
            pending = mx.where(fresh, mx.array(NO_TOKEN), self._drawn)
            settings = [row.sampling_row() for row in self._rows]
            self._sampler = BatchSampler(settings, self._forward.vocabulary, pending)
        positions = [len(row.generated) + (row not in self._fresh) for row in self._rows]
        return self._sampler.sample(logits, positions, guide)
