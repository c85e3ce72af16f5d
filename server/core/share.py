"""When background work gets the device while rows are being served."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BackgroundShare:
    """Shares the device's time between serving and pieces of background work.

    While nothing is served, every piece runs. Otherwise serving earns credit for the background:
    so much that the background gets ``share`` of the time, in pieces as long as they are. Times
    are seconds, ``share`` lies in [0, 1).
    """

    share: float
    credit_s: float = 0.0
    piece_s: float = 0.0

    def served(self, seconds: float) -> None:
        """Serving used the device."""
        earned = seconds * self.share / (1 - self.share)
        # Capped, so that a long time without work does not end in a long time without serving.
        self.credit_s = min(self.credit_s + earned, 2 * max(self.piece_s, earned))

    def worked(self, seconds: float) -> None:
        """A piece used the device while rows were being served."""
        self.credit_s -= seconds
        self.piece_s = seconds

    def rested(self, seconds: float) -> None:
        """A piece used the device while nothing was served: it cost nobody anything."""
        self.credit_s = 0.0
        self.piece_s = seconds

    def may_run(self) -> bool:
        """Whether a piece may run now, though rows are being served."""
        return self.share > 0 and self.credit_s >= self.piece_s
