"""What a model's text says: words to the user, thoughts, and calls of tools, as events in order.

The calls of one text are counted from 0. A call begins, its arguments follow in pieces, and it
ends; nothing else comes in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning, which is never part of what is said."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of the tool ``name``, which is one of the request's."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments: JSON as the model wrote it."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is complete. One that the end of the text cut off has no such event."""

    index: int


Spoken = Said | Thought | CallBegun | CallArguments | CallEnded


@dataclass(frozen=True, slots=True)
class SpokenCall:
    """A whole call. ``arguments`` is what the model wrote, unfinished where it was cut off."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Speech:
    """All that a text says."""

    text: str
    reasoning: str
    calls: tuple[SpokenCall, ...]


def speech(events: Iterable[Spoken]) -> Speech:
    """``events`` put together."""
    said: list[str] = []
    thought: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        match event:
            case Said(text):
                said.append(text)
            case Thought(text):
                thought.append(text)
            case CallBegun(_, name):
                names.append(name)
                arguments.append([])
            case CallArguments(index, text):
                arguments[index].append(text)
            case _:
                pass  # a call's end adds nothing to it
    calls = zip(names, map("".join, arguments), strict=True)
    return Speech("".join(said), "".join(thought), tuple(SpokenCall(*call) for call in calls))


def merged(events: Iterable[Spoken]) -> tuple[Spoken, ...]:
    """``events`` with neighbours of a kind joined: the same however the text was cut."""
    joined: list[Spoken] = []
    for event in events:
        last = joined[-1] if joined else None
        match last, event:
            case (Said(before), Said(text)):
                joined[-1] = Said(before + text)
            case (Thought(before), Thought(text)):
                joined[-1] = Thought(before + text)
            case (CallArguments(index, before), CallArguments(_, text)):
                joined[-1] = CallArguments(index, before + text)
            case _:
                joined.append(event)
    return tuple(joined)
