"""The decode batch: one token for every row and step, one step ahead of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from server.core.errors import ServeError
from server.core.messages import Token
from server.engine.masks import Guide, Masks
from server.engine.prefix import Held
from server.engine.report import Report
from server.engine.rows import Forward, Row, merge
from server.engine.sampling import NO_TOKEN, BatchSampler


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that a row drew; None where it must end, its logits not finite or by ``failure``.

    ``is_whole`` tells that it completes a constrained text, which nothing can follow.
    """

    row: Row
    token: Token | None
    failure: ServeError | None = None
    is_whole: bool = False


class DecodeBatch:
    """Rows that decode together, whichever adapter each has.

    A step starts the forward over the tokens drawn last, then reads those tokens while the device
    works. So a row that ends has computed one token too many, and nothing waits for Python.

    What a constrained row may draw depends on its last token. Beside one the draw therefore starts
    a moment later: forward, tokens read, masks computed meanwhile, then one draw for all rows.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._masks = Masks(forward.vocabulary)
        self.rows: list[Row] = []
        self._caches: list[Any] = []
        self._drawn = mx.array([], mx.int32)
        self._report = Report((), ())
        self._fresh: set[Row] = set()
        self._stale = True

    def join(self, rows: Sequence[Row]) -> None:
        """Add rows whose caches hold all but their last token."""
        if not rows:
            return
        joining = merge([row.caches for row in rows if row.caches is not None])
        if self.rows:
            for mine, theirs in zip(self._caches, joining, strict=True):
                mine.extend(theirs)
        else:
            self._caches = joining
        last = mx.array([row.tokens[-1] for row in rows], mx.int32)
        self._drawn = mx.concatenate([self._drawn, last])
        for row in rows:
            row.caches = None
        self.rows.extend(rows)
        self._fresh.update(rows)
        self._stale = True

    def leave(self, rows: Sequence[Row]) -> None:
        """Remove rows; tokens that they drew and nobody read are dropped."""
        keep = [index for index, row in enumerate(self.rows) if row not in rows]
        if len(keep) == len(self.rows):
            return
        if keep:
            for cache in self._caches:
                cache.filter(keep)
            self._drawn = self._drawn[mx.array(keep)]
        else:
            self._caches = []
            self._drawn = mx.array([], mx.int32)
        self._report = self._report.keep(keep)
        self.rows = [self.rows[index] for index in keep]
        self._fresh.intersection_update(self.rows)
        self._stale = True

    def held(self, row: Row) -> Held:
        """A row's tokens in the caches; waits for the step that runs."""
        index, cache = self.rows.index(row), self._caches[0]
        padding = int(cache.left_padding.tolist()[index])
        return Held(self._caches, index, padding, cache.size() - padding)

    def step(self) -> list[Drawn]:
        """Start the next token of every row and return the tokens that were started before.

        A row that has just joined has none yet.
        """
        if self._stale:
            self._compose()
        last, report = self._drawn, self._report
        # Where there is no token the row runs on with another one, for this step alone.
        inputs = mx.maximum(last, 0)
        logits = self._forward(inputs[:, None], self._caches, self._route)[:, -1]
        positions = [len(row.generated) + (row not in self._fresh) for row in self.rows]
        start: Any = mx.async_eval
        drawn: list[Drawn] | None = None
        guide = None
        if self._constrained:
            start(logits)
            drawn = self._read(last, report)
            guide, failed = self._guide()
            drawn += failed
        self._drawn, self._report = self._sampler.sample(logits, positions, guide)
        start(self._drawn, *self._report.arrays)
        if drawn is None:
            drawn = self._read(last, report)
        self._fresh.clear()
        return drawn

    def _read(self, tokens: mx.array, report: Report) -> list[Drawn]:
        """What the rows drew, those that have just joined left out; waits for the device."""
        values: Any = tokens.tolist()
        logprobs = report.read()
        drawn = []
        for index, (row, token) in enumerate(zip(self.rows, values, strict=True)):
            if row in self._fresh:
                continue
            if token == NO_TOKEN:
                drawn.append(Drawn(row, None))
                continue
            if row.matcher is not None:
                row.matcher.take(token)
            whole = row.matcher is not None and row.matcher.is_whole
            drawn.append(Drawn(row, Token(token, logprobs.get(index)), is_whole=whole))
        return drawn

    def _guide(self) -> tuple[Guide, list[Drawn]]:
        """What the constrained rows may draw next, and those that cannot go on."""
        forced, masked = [NO_TOKEN] * len(self.rows), []
        for index, matcher in self._constrained:
            if matcher.is_whole:
                continue
            if tokens := matcher.forced():
                forced[index] = tokens[0]
            else:
                masked.append((index, matcher))
        allowed = self._masks.allowed([matcher for _, matcher in masked]) if masked else None
        failures = ((self.rows[i], matcher.failure()) for i, matcher in self._constrained)
        failed = [Drawn(row, None, failure) for row, failure in failures if failure is not None]
        return Guide(tuple(index for index, _ in masked), allowed, tuple(forced)), failed

    def _compose(self) -> None:
        """Plan route and sampler for the present rows."""
        matchers = ((index, row.matcher) for index, row in enumerate(self.rows))
        self._constrained = [(index, each) for index, each in matchers if each is not None]
        adapters = [row.adapter for row in self.rows]
        self._route = self._forward.router.plan(adapters, long=False)
        fresh = mx.array([row in self._fresh for row in self.rows])
        pending = mx.where(fresh, mx.array(-1), self._drawn)
        self._sampler = BatchSampler(
            [row.sampling_row() for row in self.rows], self._forward.vocabulary, pending
        )
        self._stale = False
