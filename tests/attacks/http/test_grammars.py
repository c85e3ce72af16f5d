"""Schemas, patterns and grammars that are made to cost time, memory or the process itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.server.api.serving import Served, error_of

pytestmark = pytest.mark.anyio


def chain(count: int, rule: str = "r") -> str:
    """A grammar of rules that each lead to the next."""
    rules = "\n".join(f'{rule}{i}: "a" {rule}{i + 1}' for i in range(count))
    return f'start: {rule}0\n{rules}\n{rule}{count}: "b"'


def references(count: int) -> dict[str, Any]:
    """Definitions that each refer to the next."""
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    return {"$defs": {**links, f"d{count}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def nested(depth: int) -> dict[str, Any]:
    """Lists in lists."""
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[str, Any, str]] = [
    ("guided_json", {"type": "integer", "multipleOf": 9_999_991}, "10000"),
    ("guided_json", {"allOf": [{"multipleOf": n} for n in (97, 89, 83, 79)]}, "10000"),
    ("guided_json", {"type": "number", "multipleOf": 1e-300}, "10000"),
    ("guided_json", references(1100), "1000 parts"),
    ("guided_json", json.dumps(nested(65)), "64 levels"),
    ("guided_json", {"pattern": "a?" * 1500}, "2048"),
    ("guided_json", {"enum": ["x" * 70_000]}, "65536"),
    ("guided_json", {"x-guidance": {"lenient": True}, "not": {}}, "'x-guidance'"),
    ("guided_json", {"$ref": "http://127.0.0.1:1/schema"}, "same schema"),
    ("guided_json", {"$ref": "file:///etc/passwd"}, "same schema"),
    ("guided_regex", "a?" * 15_000, "2048"),
    ("guided_regex", "(" * 1000 + "a" + ")" * 1000, "invalid regex"),
    ("guided_grammar", chain(3000), "8192"),
    ("guided_grammar", "start: " + "(" * 3000 + '"a"' + ")" * 3000, "nested"),
    ("guided_grammar", 'start: %json {"type": "integer", "multipleOf": 9999991}', "10000"),
    ("guided_grammar", 'start: %json {"type": "integer", "multipleO\\u0066": 9999991}', "10000"),
]
BOUNDED: list[tuple[str, Any]] = [
    ("guided_json", references(900)),
    ("guided_json", json.dumps(nested(60))),
    ("guided_json", {"type": "array", "items": {}, "minItems": 10**6, "maxItems": 10**6}),
    ("guided_json", {"type": "string", "minLength": 10**6}),
    ("guided_json", {"type": "object", "properties": {f"p{i}": {} for i in range(900)}}),
    ("guided_json", {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    ("guided_regex", "a?" * 1000),
    ("guided_regex", "z(a?)" * 400),
    ("guided_regex", "((a{1,100}){1,100}){1,100}"),
    ("guided_regex", "(.*a.{30}){5}"),
    ("guided_grammar", chain(430)),
    ("guided_grammar", chain(430, "R")),
    ("guided_grammar", 'start: a\na: a a a a | "x" |'),
    ("guided_grammar", 'start: (("a"{1,1000}){1,1000}){1,1000}'),
    (
        "guided_grammar",
        "start: r0\n" + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(40)) + '\nr40: "b"',
    ),
    ("guided_grammar", 'start: "%json {"'),
]


@pytest.mark.parametrize(("field", "value", "words"), REFUSED)
async def test_what_would_cost_too_much_is_refused_by_its_limit(
    server: Served, field: str, value: Any, words: str
) -> None:
    """Before it is compiled: a divisor alone took three minutes and five gigabytes."""
    response = await server.chat(**{field: value})
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == field
    assert words in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(("field", "value"), BOUNDED)
async def test_what_is_let_in_ends_and_leaves_the_server_well(
    server: Served, field: str, value: Any
) -> None:
    """With a text or with a reason; rules nested in thousands overflowed the stack."""
    response = await server.chat(**{field: value}, max_tokens=48)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert error_of(response)["param"] == field


async def test_many_slow_constraints_leave_threads_for_the_others(server: Served) -> None:
    """Each is another one, so that none is kept; a request without one gets through beside them."""
    slow = [server.chat(guided_regex="a?" * 900 + "b" * n, max_tokens=1) for n in range(24)]
    attack = asyncio.gather(*slow)
    assert (await server.chat(max_tokens=1)).status_code == 200
    assert not attack.done()
    assert {response.status_code for response in await attack} <= {200, 400, 429}
