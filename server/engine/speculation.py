"""Speculation in a decode batch: what its rows propose, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from server.core.lookup import Lookup
from server.core.speculation import AHEAD, StepTimes, plan_ahead
from server.engine.rows import Row
from server.engine.sampling import has_penalty

_LEAST_FORCED = 3
"""Fewer tokens that a constraint forces are not worth a step of their own."""

Proposals = list[list[int]]
"""For each row of a batch the tokens that are guessed to follow, perhaps none."""


class Speculation:
    """Proposes tokens for rows whose own tokens repeat or are forced; device thread only.

    ``most`` is how many tokens may be guessed ahead, 0 for none; ``kv_tokens`` are what the rows of
    a batch may hold together, each counted as long as the longest.
    """

    def __init__(self, times: StepTimes, *, most: int, kv_tokens: int) -> None:
        self.times = times
        self._most = min(most, AHEAD[-1])
        self._kv_tokens = kv_tokens
        self.proposed_tokens = 0
        self.accepted_tokens = 0

    def propose(self, rows: Sequence[Row]) -> Proposals | None:
        """What the next step should verify; None where it is not expected to win."""
        if not self._most or not rows:
            return None
        room = self._kv_tokens // len(rows) - max(row.length for row in rows) - 1
        bounds = [min(self._most, room, _left(row)) for row in rows]
        forced = [row.matcher.forced() if row.matcher else [] for row in rows]
        gains = [
            _gains(row, bound, sure) for row, bound, sure in zip(rows, bounds, forced, strict=True)
        ]
        ahead = plan_ahead(gains, self.times)
        if not ahead:
            return None
        return [
            (sure or _follow(row).propose(min(ahead, len(gain))))[: min(ahead, len(gain))]
            if gain
            else []
            for row, gain, sure in zip(rows, gains, forced, strict=True)
        ]

    def count(self, *, proposed: int, accepted: int) -> None:
        """A step has verified so many tokens."""
        self.proposed_tokens += proposed
        self.accepted_tokens += accepted


def _left(row: Row) -> int:
    """The tokens that may still follow the next one."""
    return row.request.max_tokens - len(row.generated) - 1


def _gains(row: Row, bound: int, forced: Sequence[int]) -> Sequence[float]:
    """How many of the first 1, 2, … tokens that may be proposed will come true.

    None where a row's later tokens cannot be drawn before its earlier ones are certain: penalties
    depend on them, and what a constraint does not force.
    """
    if bound <= 0 or has_penalty(row.request.sampling):
        return []
    if row.matcher is None:
        return _follow(row).expected(bound)
    return range(1, min(bound, len(forced)) + 1) if len(forced) >= _LEAST_FORCED else []


def _follow(row: Row) -> Lookup:
    """The row's lookup, told of every token that the row has."""
    if row.lookup is None:
        row.lookup = Lookup(row.request.prompt)
    for token in row.generated[len(row.lookup) - len(row.request.prompt) :]:
        row.lookup.add(token)
    return row.lookup
