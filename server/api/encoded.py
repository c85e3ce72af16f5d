"""A prompt's tokens, and what they decide about the text that follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.core.messages import Constraint
from server.core.ports import Tokenizer
from server.core.reader import ReadingRules


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt. ``reading`` is None where the text is text and nothing else.

    ``constraint`` is what the prompt's template and tools demand of the text; it takes the place of
    the request's own, which it includes.
    """

    tokens: Sequence[int]
    reading: ReadingRules | None = None
    constraint: Constraint | None = None


Encode = Callable[[Tokenizer], Encoded]
"""Makes a prompt; runs on a thread of its own, because a long text takes long."""
