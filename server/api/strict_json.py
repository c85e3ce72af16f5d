"""JSON as RFC 8259 has it, under limits: what Python's reader lets pass is refused here."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NoReturn

from server.core.errors import InvalidRequest

MAX_DEPTH = 64
"""Objects and arrays within each other."""
MAX_DIGITS = 40
"""Of an integer; far beyond what any field takes."""

JsonObject = dict[str, object]


def parse_object(body: bytes) -> JsonObject:
    """The JSON object that ``body`` holds.

    Raises InvalidRequest for anything else, and for what a strict reader refuses or cannot keep:
    NaN and Infinity, numbers beyond a double, keys that occur twice, half a surrogate pair, more
    than MAX_DEPTH levels. No message repeats the body.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short_integer,
            object_pairs_hook=_without_duplicates,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from None
    except RecursionError:
        _refuse_depth()
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH or b"\\u" in body:
        _check_depth_and_text(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not JSON: {name} is no JSON number.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidRequest("The body holds a number that no double can hold, such as 1e400.")
    return number


def _short_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise InvalidRequest(f"The body holds an integer of more than {MAX_DIGITS} digits.")
    return int(text)


def _without_duplicates(pairs: list[tuple[str, object]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidRequest(f"The key {twice[:64]!a} occurs twice in one object.")
    return value


def _refuse_depth() -> NoReturn:
    raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_depth_and_text(value: JsonObject) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for container in level for child in _containers_in(container)]
    if level:
        _refuse_depth()


def _containers_in(container: object) -> Iterator[object]:
    children: Iterable[object] = ()
    if isinstance(container, dict):
        children = itertools.chain(container.keys(), container.values())
    elif isinstance(container, list):
        children = container
    for child in children:
        if isinstance(child, str):
            _check_text(child)
        elif isinstance(child, dict | list):
            yield child


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The body holds half of a surrogate pair (\\ud800 to \\udfff), which is no character."
        ) from None
