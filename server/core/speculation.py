"""How many tokens to guess ahead, so that guessing is never expected to lose.

One forward over ``length`` tokens of every row takes longer than one over a single token, and gives
a row 1 token and those guesses that came true. What both are worth is known before each step: how
long steps take, by their shape, and how often each row's guesses come true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

AHEAD = (1, 2, 3, 5, 7, 11, 15)
"""Numbers of tokens that may be guessed ahead."""
_LEAST_GAIN = math.log(1.05)
"""What a step must be expected to gain: less would drown in what the expectation is worth."""
_NEWEST = 0.2
_FORGET = 0.01


class StepTimes:
    """How long a step over ``rows`` rows of ``length`` tokens takes, in seconds.

    Before it has been seen: ``fixed_s + tokens / tokens_per_s``, as far off as steps of one token
    for as many rows are. Then an exponential average of what was seen, with weight 0.2 on the
    newest. A shape that is seen no more goes back to the former, so that it is tried again.
    """

    def __init__(self, *, fixed_s: float, tokens_per_s: float) -> None:
        self._fixed_s = fixed_s
        self._tokens_per_s = tokens_per_s
        self._ratios: dict[int, dict[int, float]] = {}

    def expected(self, rows: int, length: int) -> float:
        """Seconds that a step of this shape is expected to take."""
        ratios = self._ratios.get(rows, {})
        return self._plain(rows * length) * ratios.get(length, ratios.get(1, 1.0))

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Learn from a step. None counts more than double or half of what was expected."""
        expected = self.expected(rows, length)
        seen = min(max(seconds, expected / 2), expected * 2) / self._plain(rows * length)
        ratios = self._ratios.setdefault(rows, {})
        before = expected / self._plain(rows * length)
        ratios[length] = before + _NEWEST * (seen - before)
        if length == 1:
            for other in ratios:
                ratios[other] += _FORGET * (ratios[1] - ratios[other])

    def _plain(self, tokens: int) -> float:
        return self._fixed_s + tokens / self._tokens_per_s


def plan_ahead(gains: Sequence[Sequence[float]], times: StepTimes) -> int:
    """How many tokens to guess ahead in the next step; 0 where that is not expected to win.

    ``gains`` has for each row of the batch how many of its first 1, 2, … proposed tokens will come
    true; a row that proposes fewer than are guessed ahead is padded, and one that proposes none
    only waits longer. What must rise is the geometric mean of the rows' speeds (proportional
    fairness, Kelly 1997): half of the rows at double speed do not pay for the others at half.
    """
    longest = max(map(len, gains), default=0)
    if not longest:
        return 0
    rows = len(gains)
    alone = times.expected(rows, 1)
    best, most = 0, _LEAST_GAIN
    for ahead in AHEAD:
        if ahead > longest:
            break
        won = sum(math.log1p(row[min(ahead, len(row)) - 1]) for row in gains if row) / rows
        gain = won - math.log(times.expected(rows, ahead + 1) / alone)
        if gain > most:
            best, most = ahead, gain
    return best
