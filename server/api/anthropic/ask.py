"""A request for a message as an Ask, and its prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from server.api.encoded import Encoded
from server.api.generation import Ask
from server.api.parts import Parts
from server.api.schema.messages import CountTokensRequest, MessagesRequest, TextBlock
from server.core.messages import Constraint, Sampling
from server.core.ports import Tokenizer

_TURNS = "\n\n"
"""Between turns of one role in a row, which the reference makes one turn."""


class Prompt:
    """Makes a request's prompt, and remembers how many tokens it has."""

    def __init__(self, request: CountTokensRequest) -> None:
        self._messages = _conversation(request)
        self.tokens = 0
        """The length of the prompt, once it is made."""

    def __call__(self, tokenizer: Tokenizer) -> Encoded:
        """Token ids, ready for the assistant's turn."""
        tokens = tokenizer.encode_chat(self._messages, template_kwargs={})
        self.tokens = len(tokens)
        return Encoded(tokens)


def message_ask(request: MessagesRequest, prompt: Prompt, parts: Parts) -> Ask:
    """What ``request`` asks of the engine.

    ``max_tokens`` is a bound and no reservation: where the context has less room, the message may
    fill it.
    """
    return Ask(
        row_id=f"msg_{parts.new_id()}",
        model=request.model,
        prompts=(prompt,),
        prompt_field="messages",
        max_tokens=request.max_tokens,
        sampling=_sampling(request, parts.draw_seed()),
        stops=request.stop_sequences,
        constraint=_constraint(request),
        cut_to_context=True,
    )


def _sampling(request: MessagesRequest, seed: int) -> Sampling:
    """As the reference's defaults have it; a ``top_p`` of 0 keeps the best token alone."""
    temperature = 1.0 if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    return Sampling(
        seed=seed,
        temperature=temperature if top_p > 0 else 0.0,
        top_p=top_p if top_p > 0 else 1.0,
        top_k=request.top_k or 0,
    )


def _constraint(request: CountTokensRequest) -> Constraint | None:
    form = None if request.output_config is None else request.output_config.format
    if form is None:
        return None
    return Constraint("json_schema", json.dumps(form.definition), field="output_config.format")


def _conversation(request: CountTokensRequest) -> list[dict[str, Any]]:
    """The messages as chat templates know them."""
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _text(request.system)})
    for message in request.messages:
        text = _text(message.content)
        if messages and messages[-1]["role"] == message.role:
            messages[-1]["content"] += _TURNS + text
        else:
            messages.append({"role": message.role, "content": text})
    return messages


def _text(blocks: Iterable[TextBlock]) -> str:
    return "".join(block.text for block in blocks)
