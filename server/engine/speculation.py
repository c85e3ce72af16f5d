"""Speculation in a decode batch: what its rows propose, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from server.core.lookup import Lookup
from server.core.speculation import AHEAD, StepTimes, plan_ahead
from server.engine.rows import Row
from server.engine.sampling import has_penalty

Proposals = list[list[int]]
"""For each row of a batch the tokens that are guessed to follow, perhaps none."""


class Speculation:
    """Proposes tokens for rows whose own tokens repeat; device thread only.

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
        gains = [
            _follow(row).expected(bound) if bound > 0 and _is_followed(row) else []
            for row, bound in zip(rows, bounds, strict=True)
        ]
        ahead = plan_ahead(gains, self.times)
        if not ahead:
            return None
        return [
            _follow(row).propose(min(ahead, len(gain))) if gain else []
            for row, gain in zip(rows, gains, strict=True)
        ]

    def count(self, *, proposed: int, accepted: int) -> None:
        """A step has verified so many tokens."""
        self.proposed_tokens += proposed
        self.accepted_tokens += accepted


def _left(row: Row) -> int:
    """The tokens that may still follow the next one."""
    return row.request.max_tokens - len(row.generated) - 1


def _is_followed(row: Row) -> bool:
    """Whether a row's later tokens can be drawn before its earlier ones are certain.

    Penalties and a constraint depend on them.
    """
    return row.request.constraint is None and not has_penalty(row.request.sampling)


def _follow(row: Row) -> Lookup:
    """The row's lookup, told of every token that the row has."""
    if row.lookup is None:
        row.lookup = Lookup(row.request.prompt)
    for token in row.generated[len(row.lookup) - len(row.request.prompt) :]:
        row.lookup.add(token)
    return row.lookup
