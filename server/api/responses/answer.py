"""A response in the making, as OpenAI's clients read it: whole, or event by event."""

from __future__ import annotations

from collections.abc import Callable

from server.api.generation import Ask
from server.api.parts import Parts
from server.api.responses.outputs import Outputs
from server.api.rows import End
from server.api.schema.fields import Schema
from server.api.schema.responses import ResponsesRequest
from server.api.schema.responses_tools import ToolChoice, Word
from server.api.transcript import Piece
from server.api.wire import Body, TokenTexts
from server.core.errors import ShuttingDown
from server.errors import ErrorBody

_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""Of the reference's codes for a failed response, those that fit a status; else server_error."""


class ResponseTelling:
    """The ``response`` object and the events that build it.

    Its status is ``in_progress``, and in the end ``completed``, ``incomplete``, ``failed`` or
    ``cancelled``. ``closed`` hears once that nothing follows.
    """

    def __init__(
        self,
        request: ResponsesRequest,
        ask: Ask,
        parts: Parts,
        closed: Callable[[ResponseTelling], None],
    ) -> None:
        self._request, self._ask, self._parts, self._closed = request, ask, parts, closed
        self._outputs = Outputs(TokenTexts(parts.tokenizer), parts.new_id)
        self._created = int(parts.clock())
        self._completed: int | None = None
        self._number = 0
        self._end: End | None = None
        self._error: Body | None = None
        self.status = "in_progress"
        """As the reference words it."""
        self.begun = False
        """Whether the row was admitted, so that there is something to tell."""

    @property
    def id(self) -> str:
        """Of the response and of its row."""
        return self._ask.row_id

    def opening(self) -> list[Body]:
        """The response without output, twice."""
        self.begun = True
        return self._numbered(self._whole("response.created"), self._whole("response.in_progress"))

    def add(self, item: Piece | End) -> list[Body]:
        """The events of an output item, or the last ones."""
        if isinstance(item, End):
            return self._ended(item)
        if self.status == "cancelled":
            return []
        return self._numbered(*self._outputs.add(item))

    def cancel(self) -> None:
        """What is there stays, and nothing is added to it."""
        self.status = "cancelled"
        self._outputs.cut()

    def failed(self, error: ErrorBody, request_id: str) -> list[Body]:  # noqa: ARG002
        """The response with its error."""
        fields = error.content["error"]
        self.status = "failed"
        self._error = {
            "code": _ERROR_CODES.get(error.status, "server_error"),
            "message": fields["message"],
            "param": fields["param"],
            "type": fields["type"],
        }
        self._outputs.cut()
        return self._numbered(self._whole("response.failed"))

    def close(self) -> None:
        """Whoever is not told the end any more has cancelled the response."""
        if self.status == "in_progress":
            self.cancel()
        self._closed(self)

    def body(self) -> Body:
        """The response as it is now."""
        request, end = self._request, self._end
        cut_short = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._completed,
            "status": self.status,
            "background": bool(request.background),
            "error": self._error,
            "incomplete_details": cut_short,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "metadata": request.metadata or {},
            "model": request.model,
            "output": self._outputs.bodies(),
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "prompt_cache_key": request.prompt_cache_key,
            "reasoning": {"effort": _effort(request), "summary": None},
            "safety_identifier": request.safety_identifier,
            "service_tier": "default",
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": _as_sent(request.text.format)},
            "tool_choice": _choice(request.tool_choice),
            "tools": [_as_sent(tool) for tool in request.tools],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": request.truncation or "disabled",
            "usage": None if end is None else _usage(end),
            "user": request.user,
        }

    def _ended(self, end: End) -> list[Body]:
        self._end = end
        if self.status == "cancelled":
            return self._numbered(self._whole("response.incomplete"))
        if end.cut:
            raise ShuttingDown(
                "The server is shutting down and had to stop this response; send it again."
            )
        complete = end.reason != "length"
        self.status = "completed" if complete else "incomplete"
        events = self._outputs.end(self.status)
        self._completed = int(self._parts.clock()) if complete else None
        return self._numbered(*events, self._whole(f"response.{self.status}"))

    def _whole(self, kind: str) -> Body:
        return {"type": kind, "response": self.body()}

    def _numbered(self, *events: Body) -> list[Body]:
        numbered = [
            {**event, "sequence_number": self._number + place} for place, event in enumerate(events)
        ]
        self._number += len(events)
        return numbered


def _effort(request: ResponsesRequest) -> str | None:
    return None if request.reasoning is None else request.reasoning.effort


def _choice(choice: ToolChoice | None) -> str | Body:
    if choice is None or isinstance(choice, Word):
        return "auto" if choice is None else choice.type
    named = (
        {"tools": [_as_sent(tool) for tool in choice.tools]} if choice.type != "function" else {}
    )
    return {**_as_sent(choice), **named}


def _as_sent(value: Schema) -> Body:
    """The fields that the reference defines, as the request has them."""
    defined = type(value).model_fields.items()
    return {
        info.alias or name: getattr(value, name)
        for name, info in defined
        if name in value.model_fields_set
    }


def _usage(end: End) -> Body:
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens or 0},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }
