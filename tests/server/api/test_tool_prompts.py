"""How tools, calls and results reach the model."""

from __future__ import annotations

import json

import pytest

from tests.server.api.serving import USER
from tests.server.api.toolbox import (
    CALL,
    DIALECTS,
    HERMES,
    HISTORY,
    TIME,
    WEATHER,
    model,
    prompt_of,
)

pytestmark = pytest.mark.anyio


async def test_a_template_that_knows_tools_gets_them() -> None:
    """In OpenAI's form, beside what the client said."""
    async with model("x", HERMES) as server:
        await server.chat(tools=[WEATHER])
        assert prompt_of(server) == json.dumps({"tools": [WEATHER]}) + "\n<user>hi\n<assistant>"


async def test_a_model_without_tools_in_its_template_is_told_in_words() -> None:
    """Behind the client's own system message, with the format that is read."""
    async with model("x") as server:
        await server.chat(messages=[{"role": "system", "content": "Be brief."}, USER], tools=[TIME])
        prompt = prompt_of(server)
    system, user = prompt.split("\n<user>")
    assert system.startswith("<system>Be brief.\n\n")
    assert json.dumps(TIME["function"]) in system
    assert "<tool_call>\n" in system
    assert user == "hi\n<assistant>"


async def test_calls_and_results_reach_a_template_that_knows_them() -> None:
    """Arguments as an object, which is what templates write out."""
    async with model("x", HERMES) as server:
        await server.chat(messages=HISTORY)
        prompt = prompt_of(server)
    _, assistant, tool, _ = prompt.splitlines()
    assert json.loads(assistant.removeprefix("<assistant>")) == {
        "reasoning_content": "They ask.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Oslo"}},
            }
        ],
    }
    assert tool == '<tool>rain{"tool_call_id": "call_1"}'


async def test_calls_and_results_are_written_out_for_any_other_template() -> None:
    """Results are the user's words, together with what the user says next."""
    async with model("x") as server:
        await server.chat(messages=[*HISTORY, USER])
        prompt = prompt_of(server)
    call, result = prompt.split("<assistant>", 1)[1].split("<user>")
    assert call.startswith(CALL)
    assert result == "<tool_response>\nrain\n</tool_response>\nhi\n<assistant>"


async def test_mistral_s_templates_get_ids_as_they_demand_them() -> None:
    """Nine letters and digits, the same for a call and its result."""
    async with model("x", DIALECTS["mistral"][0]) as server:
        await server.chat(messages=HISTORY)
        prompt = prompt_of(server)
    _, assistant, tool, _ = prompt.splitlines()
    (call,) = json.loads(assistant[assistant.index("{") :])["tool_calls"]
    assert (len(call["id"]), call["id"].isalnum()) == (9, True)
    assert call["id"] in tool
