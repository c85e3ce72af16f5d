"""The calls of tools in one text, reported as they are read."""

from __future__ import annotations

from collections.abc import Generator

from server.core.spoken import CallArguments, CallBegun, CallEnded, Spoken

Program = Generator[None, str, None]
"""Reads calls: it is sent one character after the other and, at the end of the text, "".

It reports to ``Calls`` as soon as something is certain, returns when the calls are over, and raises
NotACall where the text is none.
"""


class NotACall(Exception):
    """What was read cannot be a call of one of the request's tools."""


class Calls:
    """The calls of one text, each of a tool in ``names``; at most ``most`` of them."""

    def __init__(self, names: frozenset[str], most: int | None) -> None:
        self._names, self._most = names, most
        self._events: list[Spoken] = []
        self._pieces: list[str] = []
        self.begun = self.ended = 0
        self.reported = 0
        """Rises with everything that is reported."""

    @property
    def full(self) -> bool:
        """Whether no further call may follow."""
        return self.ended == self._most

    def check(self, name: str) -> None:
        """Raise NotACall where no tool has that name."""
        if name not in self._names:
            raise NotACall

    def begin(self, name: str) -> None:
        """A call of ``name``, which has been checked."""
        self._events.append(CallBegun(self.begun, name))
        self.begun += 1
        self.reported += 1

    def argue(self, text: str) -> None:
        """A piece of the arguments of the call that was begun last."""
        self._pieces.append(text)
        self.reported += 1

    def end(self) -> None:
        """The call that was begun last is complete."""
        self._flush()
        self._events.append(CallEnded(self.begun - 1))
        self.ended += 1
        self.reported += 1

    def mark(self) -> None:
        """What was read belongs to a call that has been reported."""
        self.reported += 1

    def whole(self, name: str, arguments: str) -> None:
        """A complete call."""
        self.begin(name)
        self.argue(arguments)
        self.end()

    def take(self) -> list[Spoken]:
        """What was reported since the last time."""
        self._flush()
        events, self._events = self._events, []
        return events

    def _flush(self) -> None:
        if self._pieces:
            self._events.append(CallArguments(self.begun - 1, "".join(self._pieces)))
            self._pieces = []
