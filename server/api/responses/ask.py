"""A request for a response as an Ask, and its prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence

from server.api.generation import Ask
from server.api.parts import Parts
from server.api.responses.prompt import prompt_of
from server.api.responses.stored import Kept
from server.api.sampling import sampling_of
from server.api.schema.formats import PlainFormat
from server.api.schema.responses import LOGPROBS, PromptRequest, ResponsesRequest, SchemaFormat
from server.api.wire import Body
from server.core.errors import InvalidRequest
from server.core.messages import Constraint


def check_together(request: ResponsesRequest) -> None:
    """Raises InvalidRequest where fields of ``request`` contradict each other."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "stream_options has no meaning without stream: true.", param="stream_options"
        )
    if request.top_logprobs and LOGPROBS not in request.include:
        raise InvalidRequest(f'top_logprobs needs include: ["{LOGPROBS}"].', param="top_logprobs")
    if request.background and request.stream:
        raise InvalidRequest(
            "A background response cannot be streamed here: retrieve it by its id.", param="stream"
        )
    if request.background and request.store is False:
        raise InvalidRequest(
            "A background response is fetched later, so it must be stored.", param="store"
        )


def response_ask(
    request: ResponsesRequest, items: Sequence[Body], history: Sequence[Kept], parts: Parts
) -> Ask:
    """What ``request`` asks of the engine; ``items`` are its own, ``history`` comes before them."""
    answer = constraint_of(request)
    room = request.max_output_tokens or 1
    logprobs = (request.top_logprobs or 0) if LOGPROBS in request.include else None
    return Ask(
        row_id=f"resp_{parts.new_id()}",
        model=request.model,
        prompts=(prompt_of(request, items, history, answer=answer, room=room),),
        prompt_field="input",
        max_tokens=request.max_output_tokens,
        sampling=sampling_of(request, logprobs=logprobs, draw_seed=parts.draw_seed),
        priority=request.priority or 0,
        constraint=answer,
    )


def constraint_of(request: PromptRequest) -> Constraint | None:
    """What the text must be."""
    form = request.text.format
    if isinstance(form, PlainFormat):
        return None
    if isinstance(form, SchemaFormat):
        return Constraint("json_schema", json.dumps(form.definition), field="text.format.schema")
    return Constraint("json_object", field="text.format")
