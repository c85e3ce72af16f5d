"""The output of a response in the making: from what is said, thought and called to items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.api.responses.output import CallOutput, MessageOutput, Output, ReasoningOutput
from server.api.transcript import Piece, Report
from server.api.wire import Body, TokenTexts
from server.core.spoken import CallArguments, CallBegun, CallEnded, Said, Spoken, Thought


class Outputs:
    """Items in the order in which they begin; one begins when the one before has ended.

    Token reports belong to words: those of thoughts and calls are dropped.
    """

    def __init__(self, texts: TokenTexts, new_id: Callable[[], str]) -> None:
        self._texts, self._new_id = texts, new_id
        self._items: list[Output] = []
        self._calls: list[CallOutput] = []
        self._open: Output | None = None
        self._reports: list[Report] = []

    def add(self, piece: Piece) -> list[Body]:
        """The events of one piece."""
        if piece.spoken and self._items and not isinstance(self._open, MessageOutput):
            self._reports = []  # of the markers between items
        self._reports += piece.reports
        return [event for spoken in piece.spoken for event in self._spoken(spoken)]

    def end(self, status: str) -> list[Body]:
        """The last events; an answer without anything else is a message without text."""
        events: list[Body] = []
        if not self._items:
            self._message(events)
        if self._reports and isinstance(self._open, MessageOutput):
            events += self._open.add("", self._taken())
        return events + self._ended(status)

    def cut(self) -> None:
        """What is not complete stays as it is."""
        self._ended("incomplete")

    def bodies(self) -> list[Body]:
        """The items as they are now."""
        return [item.body() for item in self._items]

    def _spoken(self, spoken: Spoken) -> list[Body]:
        events: list[Body] = []
        if not isinstance(spoken, Said):
            self._reports = []
        match spoken:
            case Said(text):
                events += self._message(events).add(text, self._taken())
            case Thought(text):
                events += self._reasoning(events).add(text)
            case CallBegun(_, name):
                call_id = f"call_{self._new_id()}"
                call = CallOutput(f"fc_{self._new_id()}", len(self._items), call_id, name)
                self._calls.append(call)
                self._begin(call, events)
            case CallArguments(index, text):
                events += self._calls[index].add(text)
            case CallEnded():
                events += self._ended("completed")
        return events

    def _message(self, events: list[Body]) -> MessageOutput:
        """The message under way, else one that begins with ``events``."""
        if isinstance(self._open, MessageOutput):
            return self._open
        message = MessageOutput(f"msg_{self._new_id()}", len(self._items), self._texts)
        self._begin(message, events)
        return message

    def _reasoning(self, events: list[Body]) -> ReasoningOutput:
        """The reasoning under way, else one that begins with ``events``."""
        if isinstance(self._open, ReasoningOutput):
            return self._open
        reasoning = ReasoningOutput(f"rs_{self._new_id()}", len(self._items))
        self._begin(reasoning, events)
        return reasoning

    def _begin(self, item: Output, events: list[Body]) -> None:
        events += self._ended("completed")
        self._items.append(item)
        self._open = item
        events += item.begin()

    def _ended(self, status: str) -> list[Body]:
        item, self._open = self._open, None
        return [] if item is None else item.end(status)

    def _taken(self) -> Sequence[Report]:
        reports, self._reports = self._reports, []
        return reports
