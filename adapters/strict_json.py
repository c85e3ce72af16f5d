"""JSON as RFC 8259 has it, under limits: what Python's reader lets pass is refused here."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Objects and arrays within each other."""
MAX_DIGITS = 40
"""Of an integer; far beyond what any field takes."""


class BadJson(Exception):
    """A text is not what it must be; ``str()`` says why, without a subject: ``must be ...``.

    It repeats little of the text.
    """


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that ``raw`` holds.

    Raises BadJson for anything else, and for what a strict reader refuses or cannot keep: NaN and
    Infinity, numbers beyond a double, keys that occur twice, half a surrogate pair, more than
    MAX_DEPTH levels.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short_integer,
            object_pairs_hook=_without_duplicates,
        )
    except UnicodeDecodeError as error:
        raise BadJson(f"is not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise BadJson(f"is not JSON: {error.msg} ({line}column {error.colno})") from None
    except RecursionError:
        _refuse_depth()
    if not isinstance(value, dict):
        raise BadJson("must be a JSON object")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH or b"\\u" in raw:
        check_values(value)
    return value


def check_values(value: Any) -> None:
    """Raise BadJson where ``value`` holds what JSON or UTF-8 cannot, or is nested too deeply."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for container in level for child in _containers_in(container)]
        if not level:
            return
    _refuse_depth()


def _containers_in(container: Any) -> Iterator[Any]:
    """The objects and arrays in ``container``, whose texts and numbers are checked."""
    values: Iterable[Any] = container
    if isinstance(container, dict):
        for key in container:
            if not isinstance(key, str):
                raise BadJson("has a key that is not a text")
            _check_text(key)
        values = container.values()
    for value in values:
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, dict | list):
            yield value
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadJson("holds a number that is not finite")


def _refuse_constant(name: str) -> NoReturn:
    raise BadJson(f"is not JSON: {name} is no JSON number")


def _refuse_depth() -> NoReturn:
    raise BadJson(f"is nested deeper than {MAX_DEPTH} levels")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadJson("holds a number that no double can hold, such as 1e400")
    return number


def _short_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise BadJson(f"holds an integer of more than {MAX_DIGITS} digits")
    return int(text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadJson(f"has the key {twice[:64]!a} twice in one object")
    return value


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadJson(
            "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        ) from None
