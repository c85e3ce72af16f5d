"""Requests with tools that make no sense: refused with the field at fault."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api.serving import USER, error_of
from tests.server.api.toolbox import (
    HISTORY,
    WEATHER,
    model,
    refused,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any", "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "auto"}, "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, "tool_choice.function"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [WEATHER]},
            "tool_choice.function.name",
        ),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"messages": [USER, {"role": "function", "name": "x", "content": "y"}]},
         "messages[1].role"),
        ({"messages": HISTORY[:2]}, "messages[1].tool_calls"),
        ({"messages": [HISTORY[0], HISTORY[2]]}, "messages[1].tool_call_id"),
        ({"messages": [*HISTORY, HISTORY[2]]}, "messages[3].tool_call_id"),
        ({"messages": [*HISTORY[:2], USER]}, "messages[1].tool_calls"),
        ({"messages": [*HISTORY[:2], {"role": "tool", "content": "x"}]},
         "messages[2].tool_call_id"),
        ({"messages": [{**USER, "tool_calls": HISTORY[1]["tool_calls"]}]},
         "messages[0].tool_calls"),
        ({"messages": [{**USER, "tool_call_id": "call_1"}]}, "messages[0].tool_call_id"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages[1].content"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"chat_template_kwargs": {"other": 1}}, "chat_template_kwargs.other"),
        ({"chat_template_kwargs": {str(index): 1 for index in range(33)}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": "x" * 20_000}}, "chat_template_kwargs"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"},
            "reasoning_effort",
        ),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"messages": [*HISTORY[:1], {"role": "assistant", "content": "x"}],
          "continue_final_message": True, "add_generation_prompt": True},
         "add_generation_prompt"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_named(fields: dict[str, Any], param: str) -> None:
    """Before any row is queued."""
    assert (await refused(**fields))["param"] == param


async def test_effort_is_refused_where_the_model_has_no_setting_for_it() -> None:
    """It would be ignored in silence."""
    async with model("x") as server:
        error = error_of(await server.chat(reasoning_effort="low"))
    assert (error["param"], error["code"]) == ("reasoning_effort", "unsupported_parameter")
