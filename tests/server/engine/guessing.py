"""Rows whose guesses are known beforehand, right and wrong, in an engine that always tries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from server.core.lookup import Lookup
from server.core.speculation import StepTimes
from server.engine import speculation, worker

Continuations = Mapping[tuple[int, ...], Sequence[int]]
"""What follows each prompt."""


class FreeGuesses(StepTimes):
    """A device on which a longer step takes no longer."""

    def expected(self, rows: int, length: int) -> float:
        """Always a second."""
        del rows, length
        return 1.0


class Knowing(Lookup):
    """Guesses what it was told; every ``wrong``-th token of a row it gets wrong."""

    def __init__(self, known: Sequence[int], prompt: Sequence[int], *, wrong: int) -> None:
        super().__init__(prompt)
        self._prompted = len(prompt)
        self._known = [
            (token + 1) % 64 if place % wrong == wrong - 1 else token
            for place, token in enumerate(known)
        ]

    def propose(self, most: int) -> list[int]:
        """The next ``most`` tokens, as far as they are known."""
        start = len(self) - self._prompted
        return self._known[start : start + most]

    def expected(self, most: int) -> list[float]:
        """It trusts itself."""
        return [float(count) for count in range(1, len(self.propose(most)) + 1)]


def guess(patch: pytest.MonkeyPatch, known: Continuations, *, wrong: int = 5) -> None:
    """Let every engine that is started from now on guess ``known`` in every step."""
    patch.setattr(
        speculation, "Lookup", lambda prompt: Knowing(known[tuple(prompt)], prompt, wrong=wrong)
    )
    patch.setattr(worker, "StepTimes", FreeGuesses)
