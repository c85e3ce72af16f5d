"""What a JSON schema may hold to be enforced, checked before anything is compiled from it.

A keyword that would not be enforced is refused by name, since a reply that looks checked and is not
would be worse than no reply. Sizes are bounded by how compiling was seen to grow: in proportion to
the number of a schema's parts, to a divisor of ``multipleOf`` and to the square of a pattern.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

from server.core.errors import InvalidRequest, UnsupportedField
from server.core.repeats import most_written

MOST_DEPTH = 64
"""Levels of objects and lists in the schema's own text."""
MOST_PARTS = 1000
"""Schemas in a schema, itself included."""
MOST_PATTERN = 2048
"""Characters of all patterns together."""
MOST_DIVISOR = 10_000
"""The least common multiple of every ``multipleOf``, in units of its last decimal place."""

_ENFORCED = frozenset(
    [
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"),
        *("properties", "patternProperties", "additionalProperties", "required"),
        *("minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    ]
)
_WITHOUT_EFFECT = frozenset(
    [
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description"),
        *("default", "examples", "example", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "discriminator", "externalDocs", "xml"),
    ]
)
"""Words about a value, not about what it may be; ``$defs`` says something where it is used."""
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMAS_IN_A_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")
_INSTEAD = {
    "nullable": 'write the type as ["string", "null"]',
    "dependencies": "list the combinations with anyOf",
    "additionalItems": "write prefixItems and items",
}


# A date, and possibly a time: any day but the 29th of February, or that of a leap year.
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_OTHER_DAY = "[0-9]{4}-(?:(?:0[13-9]|1[0-2])-[0-3][0-9]|02-[01][0-9]|02-2[0-8])"
_CALENDAR = f"^(?:{_OTHER_DAY}|{_LEAP_YEAR}-02-29)(?:[Tt].*)?$"


def check_schema(schema: object, field: str) -> None:
    """Raise InvalidRequest or UnsupportedField, with a path, where ``schema`` cannot be enforced.

    ``field`` is the request's field that errors name. What passes may still be refused when it is
    compiled: an unknown format, a reference to nothing, a schema that nothing satisfies.
    """
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"{field}: the schema must be an object.", param=field)
    patterns = 0
    divisors: list[int | float] = []
    for count, (path, part) in enumerate(_parts(schema, field), start=1):
        if count > MOST_PARTS:
            raise InvalidRequest(
                f"{field}: the schema has more than {MOST_PARTS} parts; ask for less at once.",
                param=field,
            )
        if isinstance(part, bool):
            continue
        if not isinstance(part, Mapping):
            raise InvalidRequest(f"{path}: a schema must be an object.", param=field)
        _check_keywords(part, path, field)
        patterns += sum(len(text) for text in patterns_of(part))
        divisor = part.get("multipleOf")
        if isinstance(divisor, int | float) and not isinstance(divisor, bool):
            if divisor <= 0:
                raise InvalidRequest(f"{path}: multipleOf must be above 0.", param=field)
            divisors.append(divisor)
    if patterns > MOST_PATTERN:
        raise InvalidRequest(
            f"{field}: the schema's patterns have {patterns} characters, and {MOST_PATTERN} are "
            "the limit.",
            param=field,
        )
    _check_divisors(divisors, field)


def longest_pattern(schema: object, field: str) -> int:
    """The most that ``most_written`` says of a pattern in ``schema``, which is checked."""
    parts = [part for _, part in _parts(schema, field) if isinstance(part, Mapping)]
    return max((most_written(text) for part in parts for text in patterns_of(part)), default=0)


def keep_to_the_calendar(schema: object, field: str) -> None:
    """Give each date in ``schema``, in place, the rule of leap years, which its format lacks.

    llguidance takes the 29th of February of any year for a date. ``schema`` has passed
    ``check_schema``.
    """
    for _, part in list(_parts(schema, field)):
        if isinstance(part, dict) and part.get("format") in ("date", "date-time"):
            others = part.get("allOf")
            part["allOf"] = [*(others if isinstance(others, list) else []), {"pattern": _CALENDAR}]


def _parts(schema: object, field: str) -> Iterator[tuple[str, object]]:
    """Every schema inside ``schema`` with its path, itself first; depth is bounded on the way."""
    waiting: list[tuple[str, object, int]] = [(field, schema, 1)]
    while waiting:
        path, part, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise InvalidRequest(
                f"{field}: the schema is nested more than {MOST_DEPTH} levels deep.", param=field
            )
        yield path, part
        if not isinstance(part, Mapping):
            continue
        waiting += [(f"{path}.{key}", part[key], depth + 1) for key in _SCHEMAS if key in part]
        for key in _SCHEMAS_IN_A_LIST:
            listed = part.get(key)
            if isinstance(listed, list):
                waiting += [
                    (f"{path}.{key}[{i}]", each, depth + 1) for i, each in enumerate(listed)
                ]
        for key in _SCHEMAS_BY_NAME:
            named = part.get(key)
            if isinstance(named, Mapping):
                waiting += [(f"{path}.{key}", each, depth + 1) for each in named.values()]


def _check_keywords(part: Mapping[str, object], path: str, field: str) -> None:
    for key in part:
        if key in _ENFORCED or key in _WITHOUT_EFFECT:
            continue
        if key.startswith("x-") and key != "x-guidance":
            continue
        instead = _INSTEAD.get(key, "leave it out")
        raise UnsupportedField(
            f"{path}: the keyword {key[:64]!a} cannot be enforced; {instead}.", param=field
        )
    if isinstance(part.get("items"), list):
        raise UnsupportedField(
            f"{path}: items as a list cannot be enforced; write prefixItems and items.",
            param=field,
        )
    reference = part.get("$ref")
    if reference is not None and not (isinstance(reference, str) and reference.startswith("#")):
        raise UnsupportedField(
            f"{path}: $ref must point into the same schema, as in #/$defs/name.", param=field
        )


def patterns_of(part: Mapping[str, object]) -> Iterator[str]:
    """The regular expressions of one schema, without those of the schemas in it."""
    if isinstance(pattern := part.get("pattern"), str):
        yield pattern
    if isinstance(named := part.get("patternProperties"), Mapping):
        yield from named


def _check_divisors(divisors: list[int | float], field: str) -> None:
    numbers = [Fraction(str(each)) for each in divisors]
    unit = math.lcm(1, *(each.denominator for each in numbers))
    if unit > MOST_DIVISOR or math.lcm(1, *(int(each * unit) for each in numbers)) > MOST_DIVISOR:
        raise InvalidRequest(
            f"{field}: the least common multiple of the schema's multipleOf values, in units of "
            f"their last decimal place, must not exceed {MOST_DIVISOR}.",
            param=field,
        )
