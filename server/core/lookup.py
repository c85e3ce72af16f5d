"""What a row's own tokens say will follow them: speculation by prompt lookup (Saxena 2023).

Where the last tokens have stood before, what followed them then is the guess. Each token that comes
tells whether the guess was right, whether or not anybody acted on it. So a row's chances are known
before a guess is first tried, and cost nothing to know.
"""

from __future__ import annotations

from collections.abc import Sequence

_FEWEST, _MOST = 2, 3
"""Tokens that must have stood before, and those that are looked for first."""
_STEPS = (3, 4, 6, 10)
"""Where the number of tokens that agree so far enters the next class of chances."""
_PRIORS = (0.30, 0.40, 0.60, 0.75, 0.85)
"""Chance of a guess in each class before the row has shown its own."""
_WEIGHT = 3.0
"""How many guesses the prior counts for."""
_MEMORY = 0.95
"""What an older guess counts next to a newer one."""


class Lookup:
    """One row's tokens, the guess at what follows, and how often guesses came true.

    Work for each token does not depend on how many there are.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        """``tokens`` are the prompt; nothing is known yet of how its continuation is drawn."""
        self._tokens = list(tokens[:-1])
        self._after: dict[tuple[int, ...], int] = {}
        for size in (_FEWEST, _MOST):
            runs = zip(*(self._tokens[start:] for start in range(size)), strict=False)
            self._after.update(zip(runs, range(size, len(tokens)), strict=False))
        self._right = [0.0] * len(_PRIORS)
        self._guessed = [0.0] * len(_PRIORS)
        self._next: int | None = None
        self._agreed = 0
        for token in tokens[-1:]:
            self.add(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, token: int) -> None:
        """The row has drawn ``token``."""
        right = self._next is not None and self._judge(self._tokens[self._next] == token)
        self._tokens.append(token)
        if self._next is not None and right:
            self._next += 1
            self._agreed += 1
        else:
            self._next, self._agreed = self._find()
        for size in (_FEWEST, _MOST):
            if len(self._tokens) >= size:
                self._after[tuple(self._tokens[-size:])] = len(self._tokens)

    def propose(self, most: int) -> list[int]:
        """The next ``most`` tokens by the guess; none where the last tokens are new.

        A guess that reaches the row's own end goes on with itself, as a loop does.
        """
        if self._next is None:
            return []
        proposal: list[int] = []
        known = len(self._tokens)
        for place in range(self._next, self._next + most):
            proposal.append(self._tokens[place] if place < known else proposal[place - known])
        return proposal

    def expected(self, most: int) -> list[float]:
        """How many of the first 1, 2, … ``most`` proposed tokens will come true, on average."""
        if self._next is None:
            return []
        expected: list[float] = []
        total, chance = 0.0, 1.0
        for ahead in range(most):
            chance *= self._chance(_class_of(self._agreed + ahead))
            total += chance
            expected.append(total)
        return expected

    def _judge(self, right: bool) -> bool:
        place = _class_of(self._agreed)
        self._guessed[place] = self._guessed[place] * _MEMORY + 1
        self._right[place] = self._right[place] * _MEMORY + right
        return right

    def _chance(self, place: int) -> float:
        return (self._right[place] + _PRIORS[place] * _WEIGHT) / (self._guessed[place] + _WEIGHT)

    def _find(self) -> tuple[int | None, int]:
        """Where the last tokens' latest earlier occurrence goes on, and how many agree."""
        for size in (_MOST, _FEWEST):
            found = self._after.get(tuple(self._tokens[-size:]))
            if found is not None:
                return found, size
        return None, 0


def _class_of(agreed: int) -> int:
    return sum(agreed >= step for step in _STEPS)
