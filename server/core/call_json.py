"""Calls that are written as JSON objects with a name and arguments, read as they come.

Brackets and quotes are followed, and nothing more: what the model wrote as arguments is passed on
as it stands, valid or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator

from server.core.calls import Calls, NotACall, Program

SPACE = " \t\r\n"
_NAME_KEY, _ARGUMENT_KEYS = "name", ("arguments", "parameters")


def listed_objects(calls: Calls) -> Program:
    """Objects up to the closing bracket; the opening one is read."""
    found = yield from skip("")
    while True:
        if found != "{":
            raise NotACall
        found = yield from call_object(calls)
        found = yield from skip(found)
        if found == "]":
            return
        if found != ",":
            raise NotACall
        calls.mark()
        found = yield from skip("")


def call_object(calls: Calls) -> Generator[None, str, str]:
    """One call, whose opening brace is read; gives the character that should not be in it, or "".

    The call is reported when name and arguments are certain to be there, whichever comes first,
    and is over with its arguments.
    """
    call = _Call(calls)
    while True:
        found = yield from skip("", SPACE + ",")
        if found == "}":
            break
        if found != '"':
            if call.over:
                return found
            raise NotACall
        key = yield from _string()
        found = yield from skip("")
        if found != ":":
            raise NotACall
        found = yield from skip("")
        found = yield from call.field(key, found)
        if found == "}":
            break
    call.close()
    return ""


class _Call:
    """The fields of one object, in whatever order they come."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._name = self._arguments = ""
        self.over = False
        """Whether the call has been reported, with its arguments."""

    def field(self, key: str, found: str) -> Generator[None, str, str]:
        """Read the value that begins with ``found``; as ``json_value``."""
        if key == _NAME_KEY and not self._name:
            yield from self._read_name(found)
            return ""
        if key in _ARGUMENT_KEYS and not self.over and not self._arguments:
            yield from self._read_arguments(found)
            return ""
        return (yield from json_value(found, _drop))

    def close(self) -> None:
        """The object is over; without arguments it calls with none."""
        if not self._name:
            raise NotACall
        if not self.over:
            self._calls.whole(self._name, "{}")
        self._calls.mark()

    def _read_name(self, found: str) -> Program:
        if found != '"':
            raise NotACall
        self._name = yield from _string()
        self._calls.check(self._name)
        if self._arguments:
            self._calls.whole(self._name, self._arguments)
            self.over = True

    def _read_arguments(self, found: str) -> Program:
        if self._name and found == "{":
            self._calls.begin(self._name)
            yield from json_value(found, self._calls.argue)
            self._calls.end()
        else:
            self._arguments = yield from _other_arguments(found)
            if self._name:
                self._calls.whole(self._name, self._arguments)
        self.over = bool(self._name)


def _other_arguments(found: str) -> Generator[None, str, str]:
    """Arguments that cannot be passed on as they come: before the name, or JSON within a string."""
    if found == '"':
        text = yield from _string()
    elif found == "{":
        read: list[str] = []
        yield from json_value(found, read.append)
        text = "".join(read)
    else:
        raise NotACall
    if not text.lstrip(SPACE).startswith("{"):
        raise NotACall
    return text


def json_value(found: str, take: Callable[[str], None]) -> Generator[None, str, str]:
    """A JSON value that begins with ``found``; gives the character after it if that is read."""
    take(found)
    if found == '"':
        yield from _quoted(take)
        return ""
    if found not in "{[":
        while (found := (yield)) not in ",}]" + SPACE:
            take(found)
        return found
    depth = 1
    while depth:
        found = yield
        take(found)
        if found == '"':
            yield from _quoted(take)
        elif found in ("{", "["):
            depth += 1
        elif found in ("}", "]"):
            depth -= 1
    return ""


def _quoted(take: Callable[[str], None]) -> Program:
    """The rest of a string, with the closing quote."""
    escaped = False
    while True:
        found = yield
        take(found)
        if found == '"' and not escaped:
            return
        escaped = found == "\\" and not escaped


def _string() -> Generator[None, str, str]:
    """The value of a string whose opening quote is read."""
    read = ['"']
    yield from _quoted(read.append)
    try:
        value: str = json.loads("".join(read), strict=False)
    except ValueError:
        raise NotACall from None
    return value


def skip(found: str, skipped: str = SPACE) -> Generator[None, str, str]:
    """The next character, ``found`` being the last one that was read, that is none of those."""
    while not found or found in skipped:
        found = yield
    return found


def _drop(_: str) -> None:
    """For what is in a call and means nothing."""
