"""Constraints on what the fake engine says: llguidance itself, over one token for each byte."""

from __future__ import annotations

from server.core.messages import Constraint
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars
from tests.fake_tokenizer import END, VOCABULARY, FakeTokenizer

_GRAMMARS = Grammars(lambda: grammar_tokens(FakeTokenizer()))
_CLOSERS = tuple(b'"}]0')


class Constrained:
    """What a row may say. Raises InvalidRequest for a constraint that cannot be compiled."""

    def __init__(self, constraint: Constraint | None) -> None:
        self._matcher = None if constraint is None else _GRAMMARS.grammar(constraint).matcher()

    @property
    def is_whole(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher is not None and self._matcher.is_whole

    def choose(self, wanted: int | None) -> int | None:
        """The token that a script wants where the constraint allows it, else one that it allows.

        None where the text is to end. What closes something comes before what goes on.
        """
        if self._matcher is None:
            return wanted
        mask = self._matcher.native.compute_bitmask()
        allowed = [token for token in range(VOCABULARY) if mask[token // 8] >> token % 8 & 1]
        if wanted is None and END in allowed:
            return None
        if wanted not in allowed:
            wanted = next((token for token in _CLOSERS if token in allowed), allowed[0])
        self._matcher.take(wanted)
        return None if wanted == END else wanted
