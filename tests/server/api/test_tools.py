"""Calls of tools in ``POST /v1/chat/completions``, whole and streamed."""

from __future__ import annotations

import pytest

from tests.server.api.serving import events_of
from tests.server.api.toolbox import (
    CALL,
    DIALECTS,
    OSLO,
    WEATHER,
    choice_of,
    model,
    prompt_of,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_call_has_exactly_the_reference_s_shape(name: str) -> None:
    """However the model wrote it."""
    dialect, text = DIALECTS[name]
    choice = await choice_of(text, dialect)
    (call,) = choice["message"].pop("tool_calls")
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "weather", "arguments": OSLO}}
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None}
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_stream_builds_the_same_message(name: str) -> None:
    """Id and name come once and first, arguments in pieces, then the finish reason."""
    dialect, text = DIALECTS[name]
    async with model(text, dialect) as server:
        whole = (await server.chat(tools=[WEATHER])).json()
        response = await server.chat(tools=[WEATHER], stream=True)
    chunks = [event["choices"][0] for event in events_of(response.text)]
    assert chunks[0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
    deltas = [delta for chunk in chunks for delta in chunk["delta"].get("tool_calls", [])]
    assert not any(chunk["delta"].get("content") for chunk in chunks)
    first, *rest = deltas
    assert first["id"] != whole["choices"][0]["message"]["tool_calls"][0]["id"]
    assert (first["index"], first["type"]) == (0, "function")
    assert first["function"]["name"] == "weather"
    assert all(delta.keys() == {"index", "function"} for delta in rest)
    assert "".join(delta["function"]["arguments"] for delta in deltas) == OSLO
    assert (len(rest) > 3) == (name != "parsed")
    assert chunks[-1]["finish_reason"] == "tool_calls"


async def test_words_beside_calls_are_content() -> None:
    """A model may say what it does."""
    choice = await choice_of(f"Let me look.\n{CALL}\n{CALL}\n")
    assert choice["message"]["content"] == "Let me look."
    calls = choice["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls) == 2


@pytest.mark.parametrize(
    "text", ["<tool_call>\n{weather\n</tool_call>", CALL.replace("weather", "rain"), "It rains."]
)
async def test_what_is_no_call_stays_content(text: str) -> None:
    """It is never lost, and no tool is called that was not offered."""
    choice = await choice_of(text)
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["finish_reason"] == "stop"


async def test_without_parallel_calls_there_is_one() -> None:
    """The row ends with the first, whatever the model would have gone on to say."""
    async with model(CALL + CALL + "x") as server:
        response = await server.chat(tools=[WEATHER], parallel_tool_calls=False)
        assert server.engine.cancelled
    body = response.json()
    (choice,) = body["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    assert body["usage"]["completion_tokens"] < len(CALL)


async def test_a_call_that_is_cut_off_shows_what_there_is_and_length() -> None:
    """The client sees that the arguments are not whole."""
    choice = await choice_of(CALL, max_tokens=50)
    (call,) = choice["message"]["tool_calls"]
    assert OSLO.startswith(call["function"]["arguments"])
    assert choice["finish_reason"] == "length"


async def test_a_stop_string_cuts_a_call_like_any_text() -> None:
    """It is about the text that the model writes."""
    choice = await choice_of(CALL, stop="Oslo")
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city": "'
    assert choice["finish_reason"] == "tool_calls"


async def test_choice_none_offers_nothing_and_reads_no_call() -> None:
    """The model is not told of the tools, and its text is its text."""
    async with model(CALL) as server:
        response = await server.chat(tools=[WEATHER], tool_choice="none")
        assert prompt_of(server) == "<user>hi\n<assistant>"
    assert response.json()["choices"][0]["message"]["content"] == CALL


async def test_only_allowed_tools_can_be_called() -> None:
    """The others are neither shown nor called."""
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [{"type": "function", "function": {"name": "time"}}],
        },
    }
    choice = await choice_of(CALL, tool_choice=allowed)
    assert choice["message"]["content"] == CALL
