"""The prompt of a response, cut at its beginning where the request wants that."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from server.api.conversing import encoding
from server.api.encoded import Encode, Encoded
from server.api.responses.conversation import conversation_of
from server.api.responses.stored import Kept, items_of
from server.api.schema.responses import PromptRequest
from server.api.wire import Body
from server.core.conversation import Conversation
from server.core.messages import Constraint
from server.core.ports import Tokenizer


def prompt_of(
    request: PromptRequest,
    items: Sequence[Body],
    history: Sequence[Kept],
    *,
    answer: Constraint | None,
    room: int,
) -> Encode:
    """What makes the prompt; ``items`` are the request's own, ``history`` comes before them.

    ``room`` is what must be left for the answer where ``truncation`` is auto.
    """
    effort = None if request.reasoning is None else request.reasoning.effort

    def encode(tokenizer: Tokenizer) -> Encoded:
        def encoded(conversation: Conversation) -> Encoded:
            made = encoding(
                conversation, effort=effort, effort_field="reasoning.effort", answer=answer
            )
            return made(tokenizer)

        before = [item for kept in history for item in items_of(kept)]
        whole = conversation_of(request, [*before, *items])
        if request.truncation != "auto":
            return encoded(whole)
        most = tokenizer.max_context - room
        cuts = _cuts(whole)
        place = bisect_left(cuts, -most, key=lambda cut: -len(encoded(cut).tokens))
        return encoded(cuts[min(place, len(cuts) - 1)])

    return encode


def _cuts(whole: Conversation) -> list[Conversation]:
    """``whole``, and without more and more of its beginning.

    What the system says first stays, and each begins with something that the user says, so that no
    result loses its call.
    """
    lead = tuple(takewhile(lambda turn: turn.role == "system", whole.turns))
    rest = whole.turns[len(lead) :]
    starts = [place for place, turn in enumerate(rest) if turn.role == "user" and place]
    return [whole, *(replace(whole, turns=(*lead, *rest[start:])) for start in starts)]
