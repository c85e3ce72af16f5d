"""A request for a message as an Ask, and its prompt."""

from __future__ import annotations

import json

from server.api.anthropic.conversation import conversation_of
from server.api.conversing import encoding, has_effort
from server.api.encoded import Encoded
from server.api.generation import Ask
from server.api.parts import Parts
from server.api.sampling import sampling_of
from server.api.schema.messages import CountTokensRequest, MessagesRequest
from server.api.schema.messages_tools import ThinkingOff, ThinkingOn
from server.core.errors import InvalidRequest, UnsupportedField
from server.core.messages import Constraint
from server.core.ports import Dialect, Tokenizer

_LEVELS = ((4096, "low"), (16384, "medium"))
"""Budgets of thinking below which a template with levels is told that level; else high."""


class Prompt:
    """Makes a request's prompt, and remembers how many tokens it has.

    Raises InvalidRequest where the messages make no conversation.
    """

    def __init__(self, request: CountTokensRequest) -> None:
        self._request = request
        self._conversation = conversation_of(request)
        self.tokens = 0
        """The length of the prompt, once it is made."""

    def __call__(self, tokenizer: Tokenizer) -> Encoded:
        """The prompt, ready for the assistant's turn or within it."""
        effort = _effort(self._request, tokenizer.dialect)
        answer = _constraint(self._request)
        encode = encoding(self._conversation, effort=effort, effort_field="thinking", answer=answer)
        encoded = encode(tokenizer)
        self.tokens = len(encoded.tokens)
        return encoded


def message_ask(request: MessagesRequest, prompt: Prompt, parts: Parts) -> Ask:
    """What ``request`` asks of the engine.

    ``max_tokens`` is a bound and no reservation: where the context has less room, the message may
    fill it.
    """
    thinking = request.thinking
    if isinstance(thinking, ThinkingOn) and thinking.budget_tokens >= request.max_tokens:
        raise InvalidRequest(
            "thinking.budget_tokens must be less than max_tokens, which counts thinking too.",
            param="thinking.budget_tokens",
        )
    return Ask(
        row_id=f"msg_{parts.new_id()}",
        model=request.model,
        prompts=(prompt,),
        prompt_field="messages",
        max_tokens=request.max_tokens,
        sampling=sampling_of(request, logprobs=None, draw_seed=parts.draw_seed),
        priority=request.priority or 0,
        stops=request.stop_sequences,
        constraint=_constraint(request),
        cut_to_context=True,
    )


def _effort(request: CountTokensRequest, dialect: Dialect) -> str | None:
    """How much the template is told to reason; None for what it does by itself."""
    thinking = request.thinking
    if thinking is None:
        return None
    told, reasons = has_effort(dialect), bool(dialect.think_start)
    if isinstance(thinking, ThinkingOff):
        if reasons and not told:
            raise UnsupportedField(
                "thinking: this model always reasons; leave the field out.", param="thinking"
            )
        return "none" if told else None
    if not (told or reasons):
        raise UnsupportedField(
            "thinking: this model does not reason; leave the field out.", param="thinking"
        )
    if not told:
        return None
    if not isinstance(thinking, ThinkingOn):
        return "medium"
    fitting = (level for bound, level in _LEVELS if thinking.budget_tokens < bound)
    return next(fitting, "high")


def _constraint(request: CountTokensRequest) -> Constraint | None:
    form = None if request.output_config is None else request.output_config.format
    if form is None:
        return None
    return Constraint("json_schema", json.dumps(form.definition), field="output_config.format")
