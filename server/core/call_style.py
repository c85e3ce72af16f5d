"""How models write calls of tools, and what reads each way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from server.core.call_json import SPACE, call_object, json_value, listed_objects, skip
from server.core.calls import Calls, NotACall, Program

Parse = Callable[[str], Sequence[tuple[str, str]]]
"""Names and arguments, as JSON, of the calls in a text; raises ValueError where it has none."""

ARGUMENTS = "[ARGS]"
"""Between name and arguments of the ``header`` style."""

_LONGEST_HEADER = 256


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How a model writes its calls between ``start`` and ``end``.

    ``object``: a JSON object with ``name`` and ``arguments`` (or ``parameters``), or a list of
    them. ``list`` and ``header``: such a list, or ``name[ARGS]{…}``, without an end (Mistral, older
    and newer). ``bare``: such an object is the whole answer, also without ``start``; further ones
    follow a semicolon (Llama 3). ``text``: whatever ``parse`` reads, when all of it is there.
    """

    kind: Literal["object", "list", "header", "bare", "text"]
    start: str
    end: str = ""
    parse: Parse | None = None

    def program(self, calls: Calls) -> Program:
        """What reads the text behind ``start``."""
        match self.kind:
            case "object":
                return _objects(calls, self.end)
            case "list" | "header":
                return _listed(calls)
            case "bare":
                return _bare(calls)
            case _:
                if self.parse is None:
                    raise ValueError("calls of the style 'text' need a parser")
                return _parsed(calls, self.end, self.parse)


def _objects(calls: Calls, end: str) -> Program:
    found = yield from skip("")
    if found == "[":
        yield from listed_objects(calls)
        found = ""
    elif found == "{":
        found = yield from call_object(calls)
    else:
        raise NotACall
    # Small models close too many brackets; nothing but the end marker tells them from text.
    found = yield from skip(found, SPACE + "]}")
    seen = found
    while seen != end:
        if not end.startswith(seen):
            raise NotACall
        found = yield
        if not found:
            return
        seen += found


def _listed(calls: Calls) -> Program:
    found = yield from skip("")
    if found == "[":
        yield from listed_objects(calls)
        return
    header = found
    while not header.endswith(ARGUMENTS):
        found = yield
        header += found
        if len(header) > _LONGEST_HEADER or not found:
            raise NotACall
    name, _, between = header.removesuffix(ARGUMENTS).partition("[CALL_ID]")
    if "[" in between:
        raise NotACall
    calls.check(name.strip())
    found = yield from skip("")
    if found != "{":
        raise NotACall
    calls.begin(name.strip())
    yield from json_value(found, calls.argue)
    calls.end()


def _bare(calls: Calls) -> Program:
    while True:
        found = yield from skip("")
        if found != "{":
            raise NotACall
        found = yield from call_object(calls)
        found = yield from skip(found)
        if found != ";":
            raise NotACall


def _parsed(calls: Calls, end: str, parse: Parse) -> Program:
    read: list[str] = []
    tail = ""
    while tail != end or not end:
        found = yield
        if not found:
            break
        read.append(found)
        tail = (tail + found)[-len(end) :] if end else ""
    text = "".join(read)
    try:
        parsed = parse(text.removesuffix(end) if tail == end else text)
    except ValueError:
        raise NotACall from None
    for name, _ in parsed:
        calls.check(name)
    for name, arguments in parsed:
        if not calls.full:
            calls.whole(name, arguments)
