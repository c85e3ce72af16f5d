"""A message in the making, as Anthropic's clients read it: whole, or event by event."""

from __future__ import annotations

from server.api.anthropic.ask import Prompt
from server.api.anthropic.errors import anthropic_error
from server.api.generation import Ask
from server.api.rows import End
from server.api.schema.messages import MessagesRequest
from server.api.transcript import Piece
from server.api.wire import Body
from server.core.errors import ShuttingDown
from server.errors import ErrorBody


class MessageTelling:
    """The ``message`` object and the events that build it.

    A stream begins before it is known what of the prompt was cached: ``message_start`` counts all
    of it as read anew, and ``message_delta`` has the final counts.
    """

    def __init__(self, request: MessagesRequest, ask: Ask, prompt: Prompt) -> None:
        self._request, self._ask, self._prompt = request, ask, prompt
        self._content: list[Body] = []
        self._end: End | None = None

    def opening(self) -> list[Body]:
        """The message without content, and a first ping."""
        return [{"type": "message_start", "message": self.body()}, {"type": "ping"}]

    def add(self, item: Piece | End) -> list[Body]:
        """The events of a text block, or the last ones."""
        if isinstance(item, End):
            return self._ended(item)
        if not item.text:
            return []
        events = [] if self._content else [self._begin()]
        self._content[-1]["text"] += item.text
        delta = {"type": "text_delta", "text": item.text}
        return [*events, {"type": "content_block_delta", "index": self._last, "delta": delta}]

    def failed(self, error: ErrorBody, request_id: str) -> list[Body]:
        """An error in place of the rest."""
        return [anthropic_error(error, request_id)]

    def body(self) -> Body:
        """The message as it is now."""
        return {
            "id": self._ask.row_id,
            "type": "message",
            "role": "assistant",
            "model": self._request.model,
            "content": [dict(block) for block in self._content],
            **self._stop(),
            "usage": {**self._usage(), "service_tier": "standard"},
        }

    def close(self) -> None:
        """Messages are not kept."""

    @property
    def _last(self) -> int:
        return len(self._content) - 1

    def _begin(self) -> Body:
        block: Body = {"type": "text", "text": ""}
        self._content.append(dict(block))
        return {"type": "content_block_start", "index": self._last, "content_block": block}

    def _ended(self, end: End) -> list[Body]:
        if end.cut:
            raise ShuttingDown(
                "The server is shutting down and had to stop this message; send it again."
            )
        self._end = end
        stop = {"type": "content_block_stop", "index": self._last}
        return [
            *([stop] if self._content else []),
            {"type": "message_delta", "delta": self._stop(), "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def _stop(self) -> Body:
        end = self._end
        if end is None:
            return {"stop_reason": None, "stop_sequence": None}
        return {"stop_reason": self._reason(end), "stop_sequence": end.stop}

    def _reason(self, end: End) -> str:
        if end.stop is not None:
            return "stop_sequence"
        if end.reason == "stop":
            return "end_turn"
        full = end.completion_tokens < self._request.max_tokens
        return "model_context_window_exceeded" if full else "max_tokens"

    def _usage(self) -> Body:
        """Read from the cache and read anew add up to the prompt."""
        end = self._end
        cached = 0 if end is None else end.cached_tokens
        return {
            "input_tokens": self._prompt.tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": 0 if end is None else end.completion_tokens,
        }
