"""The output items of a response in the making, and the events that build each.

Events come without their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from server.api.responses.items import output_text, reasoning_text
from server.api.transcript import Report
from server.api.wire import Body, TokenTexts


class Output(Protocol):
    """One item."""

    def begin(self) -> list[Body]:
        """The item, empty."""
        ...

    def end(self, status: str) -> list[Body]:
        """The whole item."""
        ...

    def body(self) -> Body:
        """The item as it is now."""
        ...


class MessageOutput:
    """An assistant's message with one part of text."""

    def __init__(self, item_id: str, index: int, texts: TokenTexts) -> None:
        self._id, self._index, self._texts = item_id, index, texts
        self._text: list[str] = []
        self._logprobs: list[Any] = []
        self._status = "in_progress"

    def begin(self) -> list[Body]:
        """The item and its part, both empty."""
        part = {"type": "response.content_part.added", **self._at(), "part": output_text("", [])}
        return [_added(self._index, {**self.body(), "content": []}), part]

    def add(self, text: str, reports: Sequence[Report]) -> list[Body]:
        """A part of the text."""
        logprobs = self._texts.chat(reports)
        self._text.append(text)
        self._logprobs += logprobs
        delta = {"delta": text, "logprobs": _slim(logprobs)}
        return [{"type": "response.output_text.delta", **self._at(), **delta}]

    def end(self, status: str) -> list[Body]:
        """The whole text, part and item."""
        self._status = status
        done = {"text": "".join(self._text), "logprobs": _slim(self._logprobs)}
        return [
            {"type": "response.output_text.done", **self._at(), **done},
            {"type": "response.content_part.done", **self._at(), "part": self._part()},
            _done(self._index, self.body()),
        ]

    def body(self) -> Body:
        """The item as it is now."""
        return {
            "id": self._id,
            "type": "message",
            "status": self._status,
            "role": "assistant",
            "content": [self._part()],
        }

    def _part(self) -> Body:
        return output_text("".join(self._text), list(self._logprobs))

    def _at(self) -> Body:
        return {"item_id": self._id, "output_index": self._index, "content_index": 0}


class ReasoningOutput:
    """What the model thinks, in full; there is no summary of it."""

    def __init__(self, item_id: str, index: int) -> None:
        self._id, self._index = item_id, index
        self._text: list[str] = []
        self._status = "in_progress"

    def begin(self) -> list[Body]:
        """The item and its part, both empty."""
        part = {"type": "response.content_part.added", **self._at(), "part": reasoning_text("")}
        return [_added(self._index, {**self.body(), "content": []}), part]

    def add(self, text: str) -> list[Body]:
        """A part of the reasoning."""
        self._text.append(text)
        return [{"type": "response.reasoning_text.delta", **self._at(), "delta": text}]

    def end(self, status: str) -> list[Body]:
        """The whole reasoning, part and item."""
        self._status = status
        text = "".join(self._text)
        return [
            {"type": "response.reasoning_text.done", **self._at(), "text": text},
            {"type": "response.content_part.done", **self._at(), "part": reasoning_text(text)},
            _done(self._index, self.body()),
        ]

    def body(self) -> Body:
        """The item as it is now."""
        return {
            "id": self._id,
            "type": "reasoning",
            "status": self._status,
            "summary": [],
            "content": [reasoning_text("".join(self._text))],
        }

    def _at(self) -> Body:
        return {"item_id": self._id, "output_index": self._index, "content_index": 0}


class CallOutput:
    """A call of one of the client's functions."""

    def __init__(self, item_id: str, index: int, call_id: str, name: str) -> None:
        self._id, self._index = item_id, index
        self._call_id, self._name = call_id, name
        self._arguments: list[str] = []
        self._status = "in_progress"

    def begin(self) -> list[Body]:
        """The item, without arguments."""
        return [_added(self._index, self.body())]

    def add(self, text: str) -> list[Body]:
        """A part of the arguments."""
        self._arguments.append(text)
        kind = "response.function_call_arguments.delta"
        return [{"type": kind, **self._at(), "delta": text}]

    def end(self, status: str) -> list[Body]:
        """The whole arguments, and the item."""
        self._status = status
        kind, arguments = "response.function_call_arguments.done", "".join(self._arguments)
        return [
            {"type": kind, **self._at(), "arguments": arguments},
            _done(self._index, self.body()),
        ]

    def body(self) -> Body:
        """The item as it is now."""
        return {
            "id": self._id,
            "type": "function_call",
            "status": self._status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
        }

    def _at(self) -> Body:
        return {"item_id": self._id, "output_index": self._index}


def _added(index: int, item: Body) -> Body:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def _done(index: int, item: Body) -> Body:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def _slim(logprobs: Iterable[Body]) -> list[Body]:
    """Reports as events have them: without bytes."""
    return [
        {
            "token": report["token"],
            "logprob": report["logprob"],
            "top_logprobs": [
                {"token": top["token"], "logprob": top["logprob"]} for top in report["top_logprobs"]
            ],
        }
        for report in logprobs
    ]
