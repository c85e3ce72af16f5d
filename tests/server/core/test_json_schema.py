"""What a JSON schema may hold to be enforced."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.constraints import choice, json_object, json_schema
from server.core.errors import InvalidRequest, UnsupportedField
from server.core.json_schema import MOST_DIVISOR, MOST_PARTS, MOST_PATTERN, check_schema
from server.core.messages import Constraint

NULLABLE = 'write the type as ["string", "null"]'


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"not": {"type": "string"}}, "required": ["not"]},
        {"enum": [{"if": 1}], "const": {"then": 2}, "default": {"else": 3}},
        {"items": {"x-order": 1, "title": "t"}, "prefixItems": [True, {}], "$comment": "c"},
        {"$defs": {"a": {"pattern": "a"}}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#"}]},
        {"additionalProperties": False, "patternProperties": {"^a": {}}},
        {"properties": {"a": {"multipleOf": 0.01}, "b": {"multipleOf": 5}}},
        {"multipleOf": MOST_DIVISOR},
        {"multipleOf": True, "pattern": 5, "properties": [], "anyOf": {}},
    ],
)
def test_a_schema_of_known_words_passes(schema: dict[str, Any]) -> None:
    """What stands in values and in names of properties is no keyword; llguidance sees the types."""
    check_schema(schema, "f")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {}}, "f: the keyword 'not' cannot be enforced; leave it out."),
        ({"maxlength": 3}, "f: the keyword 'maxlength' cannot be enforced; leave it out."),
        (
            {"properties": {"a": {"items": {"nullable": True}}}},
            f"f.properties.items: the keyword 'nullable' cannot be enforced; {NULLABLE}.",
        ),
        (
            {"anyOf": [{}, {"x-guidance": {}}]},
            "f.anyOf[1]: the keyword 'x-guidance' cannot be enforced; leave it out.",
        ),
        (
            {"items": [{}]},
            "f: items as a list cannot be enforced; write prefixItems and items.",
        ),
        ({"$ref": "other.json"}, "f: $ref must point into the same schema, as in #/$defs/name."),
        ({"$ref": 5}, "f: $ref must point into the same schema, as in #/$defs/name."),
    ],
)
def test_what_cannot_be_enforced_is_named_with_its_place(
    schema: dict[str, Any], message: str
) -> None:
    """A reply that looks checked and is not would be worse than none."""
    with pytest.raises(UnsupportedField) as refused:
        check_schema(schema, "f")
    assert (str(refused.value), refused.value.param) == (message, "f")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (True, "must be an object"),
        ([], "must be an object"),
        ({"items": 5}, "f.items: a schema must be an object"),
        ({"properties": {str(n): {} for n in range(MOST_PARTS)}}, f"more than {MOST_PARTS} parts"),
        ({"pattern": "a" * MOST_PATTERN, "patternProperties": {"b": {}}}, "2049 characters"),
        ({"multipleOf": MOST_DIVISOR + 1}, "must not exceed"),
        ({"multipleOf": 0.00001}, "must not exceed"),
        ({"allOf": [{"multipleOf": 101}, {"multipleOf": 103}]}, "must not exceed"),
    ],
)
def test_what_is_too_large_is_refused_by_its_limit(schema: Any, words: str) -> None:
    """By number, before it is compiled."""
    with pytest.raises(InvalidRequest, match=words):
        check_schema(schema, "f")


def test_depth_is_counted_without_following_it() -> None:
    """A recursive check would end in a stack overflow."""
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="64 levels"):
        check_schema(schema, "f")
    while schema:  # so that freeing it does not recurse either
        schema = schema.pop("items")


def test_constraints_are_equal_by_what_they_say() -> None:
    """The field is where it came from."""
    assert json_schema({"a": 1}, field="x") == json_schema({"a": 1}, field="y")
    assert json_schema({}) != json_object()
    assert choice(["a", '"']) == Constraint("choice", '["a", "\\""]')
