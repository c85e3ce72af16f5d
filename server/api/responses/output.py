"""The output items of a response in the making, and the events that build each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from server.api.responses.items import output_text
from server.api.transcript import Piece
from server.api.wire import Body, TokenTexts


class MessageOutput:
    """An assistant's message with one part of text. Events come without their number."""

    def __init__(self, item_id: str, index: int, texts: TokenTexts) -> None:
        self._id, self._index, self._texts = item_id, index, texts
        self._text: list[str] = []
        self._logprobs: list[Any] = []
        self._status = "in_progress"

    def begin(self) -> list[Body]:
        """The item and its part, both empty."""
        item = {**self.body(), "content": []}
        return [
            {"type": "response.output_item.added", "output_index": self._index, "item": item},
            {"type": "response.content_part.added", **self._at(), "part": output_text("", [])},
        ]

    def add(self, piece: Piece) -> list[Body]:
        """A part of the text."""
        logprobs = self._texts.chat(piece.reports)
        self._text.append(piece.text)
        self._logprobs += logprobs
        delta = {"delta": piece.text, "logprobs": _slim(logprobs)}
        return [{"type": "response.output_text.delta", **self._at(), **delta}]

    def end(self, status: str) -> list[Body]:
        """The whole text, part and item."""
        self._status = status
        done = {"text": "".join(self._text), "logprobs": _slim(self._logprobs)}
        item = {"output_index": self._index, "item": self.body()}
        return [
            {"type": "response.output_text.done", **self._at(), **done},
            {"type": "response.content_part.done", **self._at(), "part": self._part()},
            {"type": "response.output_item.done", **item},
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
