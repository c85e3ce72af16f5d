"""JSON lines as RFC 8259 has them, read one by one under limits."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

MAX_LINE_BYTES = 1024 * 1024
"""Of one line, without its line break."""
MAX_DEPTH = 64
"""Objects and arrays within each other."""
_MAX_DIGITS = 40
_BOM = b"\xef\xbb\xbf"


class BadLine(Exception):
    """A line is not what it must be; ``str()`` says why, and repeats little of it."""


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of ``file`` without their breaks (LF or CR LF), holding one at a time.

    Of a line that is too long the first ``MAX_LINE_BYTES`` + 1 bytes come, which ``parse_object``
    refuses. A break at the end of the file begins no line.
    """
    # Two bytes more than the limit: room for a break.
    while line := file.readline(MAX_LINE_BYTES + 2):
        whole = line.endswith(b"\n")
        text = line.removesuffix(b"\n").removesuffix(b"\r") if whole else line
        yield text[: MAX_LINE_BYTES + 1]
        while not whole and (rest := file.readline(MAX_LINE_BYTES)):
            whole = rest.endswith(b"\n")


def parse_object(line: bytes, *, most: int = MAX_LINE_BYTES) -> dict[str, Any]:
    """The JSON object that ``line`` holds, of at most ``most`` bytes.

    Raises BadLine for anything else, and for what Python's reader lets pass: NaN and Infinity,
    numbers beyond a double, keys that occur twice, half a surrogate pair, a byte order mark.
    """
    if len(line) > most:
        raise BadLine(f"is longer than {most:,} bytes")
    if line.startswith(_BOM):
        raise BadLine("begins with a byte order mark: save the file as UTF-8 without one")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(f"is not UTF-8 (byte {error.start + 1})") from None
    if not text.strip():
        raise BadLine("is empty: take it out")
    value = _parse(text)
    if not isinstance(value, dict):
        raise BadLine("must be a JSON object")
    check_values(value)
    return value


def check_values(value: Any) -> None:
    """Raise BadLine where ``value`` holds what JSON or UTF-8 cannot, or is nested too deeply."""
    level = [value]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for container in level:
            following += _children(container)
        level = following
        if not level:
            return
    raise BadLine(f"is nested deeper than {MAX_DEPTH} levels")


def _parse(text: str) -> Any:
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short_integer,
            object_pairs_hook=_without_duplicates,
        )
    except json.JSONDecodeError as error:
        raise BadLine(f"is not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise BadLine(f"is nested deeper than {MAX_DEPTH} levels") from None


def _children(container: Any) -> Iterator[Any]:
    """The objects and arrays in ``container``, whose texts and numbers are checked."""
    values = container
    if isinstance(container, dict):
        for key in container:
            _check_text(key)
        values = container.values()
    for value in values:
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, dict | list):
            yield value
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadLine("holds a number that is not finite")


def _refuse_constant(name: str) -> NoReturn:
    raise BadLine(f"is not JSON: {name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadLine("holds a number that no double can hold, such as 1e400")
    return number


def _short_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise BadLine(f"holds an integer of more than {_MAX_DIGITS} digits")
    return int(text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadLine(f"has the key {twice[:64]!a} twice in one object")
    return value


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise BadLine("has a key that is not a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadLine(
            "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        ) from None
