"""Reasoning, and what a request tells the chat template."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fake_tokenizer import FakeDialect
from tests.server.api.serving import USER, events_of
from tests.server.api.toolbox import (
    HERMES,
    model,
    prompt_of,
)

pytestmark = pytest.mark.anyio


async def test_reasoning_is_beside_the_content() -> None:
    """By DeepSeek's name, whole and streamed, and counted."""
    text = "<think>\nHm.\n</think>\n\nYes."
    async with model(text, HERMES) as server:
        whole = (await server.chat()).json()
        response = await server.chat(stream=True, stream_options={"include_usage": True})
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Hm.")
    thought = len("<think>\nHm.\n</think>")
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": thought}
    *chunks, usage = events_of(response.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    assert usage["usage"]["completion_tokens_details"] == {"reasoning_tokens": thought}


@pytest.mark.parametrize(
    ("variables", "effort", "told"),
    [
        ({"enable_thinking"}, "none", {"enable_thinking": False}),
        ({"enable_thinking"}, "low", {"enable_thinking": True}),
        ({"enable_thinking", "reasoning_effort"}, "high", {"reasoning_effort": "high"}),
    ],
)
async def test_effort_reaches_the_template_in_its_words(
    variables: set[str], effort: str, told: dict[str, Any]
) -> None:
    """As a level where it has levels, else as a switch."""
    async with model("x", FakeDialect(variables=frozenset(variables))) as server:
        response = await server.chat(reasoning_effort=effort)
        assert response.status_code == 200
        assert json.loads(prompt_of(server).splitlines()[0]) == told


async def test_template_arguments_reach_the_template() -> None:
    """Those that it reads."""
    async with model("x", HERMES) as server:
        await server.chat(chat_template_kwargs={"enable_thinking": False})
        assert prompt_of(server).startswith('{"enable_thinking": false}\n')


async def test_a_message_of_the_assistant_is_continued() -> None:
    """The answer goes on from it, and does not repeat it."""
    messages = [USER, {"role": "assistant", "content": "The answer is"}]
    async with model(" 7") as server:
        response = await server.chat(messages=messages, continue_final_message=True)
        assert prompt_of(server) == "<user>hi\n<assistant>The answer is"
    assert response.json()["choices"][0]["message"]["content"] == " 7"


async def test_no_turn_is_opened_where_none_is_wanted() -> None:
    """The model speaks on after the last message."""
    async with model("x") as server:
        await server.chat(add_generation_prompt=False)
        assert prompt_of(server) == "<user>hi\n"
