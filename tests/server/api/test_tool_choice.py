"""Calls that must be made, and arguments that must fit: whatever the model would rather say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from server.core.messages import Constraint
from tests.fake_tokenizer import FakeDialect
from tests.server.api.serving import error_of
from tests.server.api.toolbox import CALL, DIALECTS, HERMES, OSLO, TIME, WEATHER, choice_of, model

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORECAST = {"type": "function", "function": {"name": "forecast", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**FORECAST["function"], "strict": True}}  # type: ignore[dict-item]
NAMED = {"type": "function", "function": {"name": "forecast"}}


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_required_call_is_made_in_every_format(name: str) -> None:
    """The model wants to chat, and calls with arguments that fit."""
    dialect = DIALECTS[name][0] or FakeDialect()
    choice = await choice_of(
        "Hello!", replace(dialect, think_start=""), tools=[FORECAST], tool_choice="required",
        parallel_tool_calls=False,
    )  # fmt: skip
    (call,) = choice["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")


@pytest.mark.parametrize("limit", range(1, 90, 8))
async def test_a_required_call_is_whole_or_the_reply_says_length(limit: int) -> None:
    """Wherever the limit falls."""
    choice = await choice_of("", tools=[FORECAST], tool_choice=NAMED, max_tokens=limit)
    if choice["finish_reason"] == "tool_calls":
        (call,) = choice["message"]["tool_calls"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    else:
        assert choice["finish_reason"] == "length"


async def test_a_named_tool_is_the_one_that_is_called() -> None:
    """Once, though others are there."""
    choice = await choice_of(CALL + CALL, tools=[WEATHER, FORECAST, TIME], tool_choice=NAMED)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "forecast"


async def test_allowed_tools_can_be_required() -> None:
    """One of them is called."""
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "time"}}]}
    choice = await choice_of(
        CALL,
        tool_choice={"type": "allowed_tools", "allowed_tools": allowed},
        parallel_tool_calls=False,
    )
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "time", "arguments": "{}"}


async def test_a_strict_tool_s_arguments_fit_once_the_model_calls_it() -> None:
    """And it may as well not call it."""
    text = CALL.replace("weather", "forecast")
    choice = await choice_of(f"So. {text}", tools=[STRICT])
    (call,) = choice["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    assert choice["message"]["content"] == "So."
    assert (await choice_of("Hi!", tools=[STRICT]))["message"]["content"] == "Hi!"


async def test_a_tool_that_is_not_strict_gets_what_the_model_writes() -> None:
    """No row is constrained for it."""
    async with model(CALL) as server:
        await server.chat(tools=[WEATHER])
        assert server.engine.submitted[0].constraint is None


async def test_reasoning_comes_before_a_required_call() -> None:
    """A model that reasons may do so first."""
    choice = await choice_of(
        f"<think>Hm.</think>\n{CALL}", HERMES, tool_choice="required", parallel_tool_calls=False
    )
    assert choice["message"]["reasoning_content"] == "Hm."
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == OSLO


async def test_a_format_that_no_grammar_knows_gives_way_to_our_own() -> None:
    """For calls that must be valid; the tools are told in our words then."""
    dialect, _ = DIALECTS["parsed"]
    async with model("x", dialect) as server:
        await server.chat(tools=[FORECAST], tool_choice="required", max_tokens=100)
        await server.chat(tools=[FORECAST], max_tokens=1)
        ours, theirs = (bytes(row.prompt[1:]).decode() for row in server.engine.submitted)
    assert "<tool_call>" in ours
    assert "<tool_call>" not in theirs


@pytest.mark.parametrize(
    ("function", "param"),
    [
        ({"parameters": {"type": "array"}}, "tools[0].function.parameters"),
        ({"parameters": {"not": {}}, "strict": True}, "tools[0].function.parameters"),
        ({"parameters": {"properties": {"a": {"$ref": "https://x.test/"}}}, "strict": True},
         "tools[0].function.parameters"),
        ({"parameters": {"properties": {"a": {"type": "strng"}}}, "strict": True}, "tools"),
    ],
)  # fmt: skip
async def test_a_schema_that_cannot_be_enforced_is_refused(
    function: dict[str, Any], param: str
) -> None:
    """Arguments that look checked and are not would be worse than none."""
    async with model("x") as server:
        tools = [{"type": "function", "function": {"name": "f", **function}}]
        error = error_of(await server.chat(tools=tools))
        assert server.engine.submitted == []
    assert error["param"] == param


async def test_such_a_schema_is_a_description_where_nothing_is_enforced() -> None:
    """As clients send it, with whatever their language's types become."""
    function = {"name": "time", "parameters": {"type": "object", "not": {"required": ["x"]}}}
    choice = await choice_of("Hi!", tools=[{"type": "function", "function": function}])
    assert choice["message"]["content"] == "Hi!"


async def test_the_constraint_names_the_field_that_it_comes_from() -> None:
    """Errors that show only when a grammar is compiled say where it came from."""
    async with model("x", FakeDialect()) as server:
        await server.chat(tools=[FORECAST], tool_choice="required", max_tokens=1)
        constraint = server.engine.submitted[0].constraint
    assert isinstance(constraint, Constraint)
    assert (constraint.kind, constraint.field) == ("lark", "tools")
