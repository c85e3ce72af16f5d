"""How many prompt tokens of which rows one piece of prefill takes.

Pure rules: time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of prefill: which rows, and the most tokens of each."""

    rows: tuple[int, ...]
    tokens_per_row: int


def plan_prefill(
    remaining: Sequence[int], *, budget: int, most_rows: int, overhead: float
) -> Piece:
    """The next piece over rows with ``remaining`` (at least 1) prompt tokens, the first one due.

    Every row takes as long as the share, so rows of unlike length cost padding, and a row that
    exceeds the share by little costs a piece of its own later. Of the shares from the due row's
    own, at most ``budget``, to its double this is the one that computes most prompt tokens for its
    time, where a piece takes the time of ``overhead`` tokens beside its own. No row is in it that
    would be padding by more than half.
    """
    due = min(remaining[0], budget)
    shares = {min(left, budget) for left in remaining} | {due}
    pieces = [
        _fullest(remaining, share, most_rows=min(most_rows, budget // share))
        for share in sorted(shares)
        if due <= share <= 2 * due
    ]
    return max(pieces, key=lambda piece: _gain(piece, remaining, overhead))


def _fullest(remaining: Sequence[int], share: int, *, most_rows: int) -> Piece:
    """The due row and those that a share ends, the least padded first, then those it does not."""
    others = [index for index in range(1, len(remaining)) if 2 * remaining[index] >= share]
    others.sort(key=lambda index: (remaining[index] > share, abs(share - remaining[index])))
    return Piece((0, *others[: most_rows - 1]), share)


def _gain(piece: Piece, remaining: Sequence[int], overhead: float) -> float:
    """Prompt tokens per token's time; a short rest of a row takes half a piece's overhead more."""
    share = piece.tokens_per_row
    real = sum(min(remaining[index], share) for index in piece.rows)
    rests = sum(share < remaining[index] < 1.5 * share for index in piece.rows)
    return real / (len(piece.rows) * share + overhead * (1 + rests / 2))


class PrefillPace:
    """Tokens per piece so that no piece is expected to exceed ``block_s`` seconds.

    A piece of n tokens takes ``fixed_s + n / tokens_per_s``: reading the weights, and working on
    them. Their relation is the device's own; how long both take is learned from each piece.
    """

    def __init__(
        self, *, block_s: float, fixed_s: float, tokens_per_s: float, most_tokens: int
    ) -> None:
        self._block_s = block_s
        self._most = most_tokens
        self.fixed_s = fixed_s
        self.tokens_per_s = tokens_per_s

    def budget(self, *, waiting: int, decoding: int) -> int:
        """Tokens for the next piece, while ``waiting`` rows prefill and ``decoding`` decode.

        Four blocks long while nobody waits for a token, or at least half as many rows wait for
        their first as for their next: a burst would otherwise be served by many decode steps of
        few rows. Never so short that the fixed time is more than a third of it.
        """
        blocks = 1 if decoding > 2 * waiting else 4
        seconds = max(self._block_s * blocks - self.fixed_s, 2 * self.fixed_s)
        return max(16, min(self._most, int(self.tokens_per_s * seconds)))

    @property
    def overhead(self) -> float:
        """The fixed time of a piece, in tokens."""
        return self.fixed_s * self.tokens_per_s

    def observe(self, *, tokens: int, seconds: float) -> None:
        """Learn from a finished piece, as an exponential average with weight 0.3 on the newest.

        Other programs may hold up one piece as long as they like: none counts more than double.
        """
        if not tokens:
            return
        expected = self.fixed_s + tokens / self.tokens_per_s
        change = 0.7 + 0.3 * min(max(seconds / expected, 0.5), 2.0)
        self.fixed_s *= change
        self.tokens_per_s /= change
