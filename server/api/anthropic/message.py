"""A message in the making, as Anthropic's clients read it: whole, or event by event."""

from __future__ import annotations

from server.api.anthropic.ask import Prompt
from server.api.anthropic.blocks import Block, TextOut, ThinkingOut, ToolUseOut
from server.api.anthropic.errors import anthropic_error
from server.api.generation import Ask
from server.api.rows import End
from server.api.schema.messages import MessagesRequest
from server.api.transcript import Piece
from server.api.wire import Body
from server.core.errors import ShuttingDown
from server.core.spoken import CallArguments, CallBegun, CallEnded, Said, Spoken, Thought
from server.errors import ErrorBody


class MessageTelling:
    """The ``message`` object and the events that build it.

    A stream begins before it is known what of the prompt was cached: ``message_start`` counts all
    of it as read anew, and ``message_delta`` has the final counts.
    """

    def __init__(self, request: MessagesRequest, ask: Ask, prompt: Prompt) -> None:
        self._request, self._ask, self._prompt = request, ask, prompt
        self._blocks: list[Block] = []
        self._open = False
        self._end: End | None = None

    def opening(self) -> list[Body]:
        """The message without content, and a first ping."""
        return [{"type": "message_start", "message": self.body()}, {"type": "ping"}]

    def add(self, item: Piece | End) -> list[Body]:
        """The events of content blocks, or the last ones."""
        if isinstance(item, End):
            return self._ended(item)
        return [event for spoken in item.spoken for event in self._spoken(spoken)]

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
            "content": [block.body() for block in self._blocks],
            **self._stop(),
            "usage": {**self._usage(), "service_tier": "standard"},
        }

    def close(self) -> None:
        """Messages are not kept."""

    @property
    def _last(self) -> int:
        return len(self._blocks) - 1

    def _spoken(self, spoken: Spoken) -> list[Body]:
        match spoken:
            case Said(text):
                return self._grown(TextOut, text)
            case Thought(text):
                return self._grown(ThinkingOut, text)
            case CallBegun(index, name):
                call_id = f"toolu_{self._ask.row_id.removeprefix('msg_')}_{index}"
                return self._begun(ToolUseOut(call_id, name))
            case CallArguments(_, text):
                return [self._delta(text)]
            case CallEnded():
                return self._stopped()

    def _grown(self, kind: type[TextOut] | type[ThinkingOut], text: str) -> list[Body]:
        going_on = self._open and isinstance(self._blocks[-1], kind)
        events = [] if going_on else self._begun(kind())
        return [*events, self._delta(text)]

    def _begun(self, block: Block) -> list[Body]:
        events = self._stopped()
        start = {"content_block": block.body()}
        self._blocks.append(block)
        self._open = True
        return [*events, {"type": "content_block_start", "index": self._last, **start}]

    def _delta(self, text: str) -> Body:
        delta = self._blocks[-1].add(text)
        return {"type": "content_block_delta", "index": self._last, "delta": delta}

    def _stopped(self) -> list[Body]:
        if not self._open:
            return []
        self._open = False
        return [{"type": "content_block_stop", "index": self._last}]

    def _ended(self, end: End) -> list[Body]:
        if end.cut:
            raise ShuttingDown(
                "The server is shutting down and had to stop this message; send it again."
            )
        self._end = end
        return [
            *self._stopped(),
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
        if end.reason != "length":
            return "tool_use" if end.reason == "tool_calls" else "end_turn"
        full = end.completion_tokens < self._request.max_tokens
        return "model_context_window_exceeded" if full else "max_tokens"

    def _usage(self) -> Body:
        """Read from the cache and read anew add up to the prompt."""
        end = self._end
        cached = 0 if end is None else end.cached_tokens
        thought = None if end is None else end.reasoning_tokens
        details = {"output_tokens_details": {"thinking_tokens": thought}}
        return {
            "input_tokens": self._prompt.tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": 0 if end is None else end.completion_tokens,
            **({} if thought is None else details),
        }
