"""Tools and thinking in ``POST /v1/messages``, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Message

from tests.fake_tokenizer import FakeDialect
from tests.server.api.anthropic.asking import ask, count, stream
from tests.server.api.anthropic.test_refusals import error_of
from tests.server.api.serving import USER
from tests.server.api.strict import strictly
from tests.server.api.toolbox import CALL, DIALECTS, HERMES, OSLO, model, prompt_of

pytestmark = pytest.mark.anyio
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
TIME = {"name": "time", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
CALLED = [USER, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]
THOUGHT = "<think>\nHm.\n</think>\n\nYes."


async def message_of(text: str, dialect: FakeDialect | None = None, **fields: Any) -> Any:
    """The message of a model that says ``text``, as the SDK reads it."""
    async with model(text, dialect) as server:
        response = await ask(server, **{"tools": [WEATHER, TIME], "max_tokens": 400, **fields})
    assert response.status_code == 200, response.text
    return strictly(Message, response.json())


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_call_is_a_block_with_its_input(name: str) -> None:
    """However the model wrote it, whole and put together from a stream."""
    dialect, text = DIALECTS[name]
    async with model(text, dialect) as server:
        whole = (await ask(server, tools=[WEATHER])).json()
        events = await stream(server, tools=[WEATHER], max_tokens=400)
    (block,) = whole["content"]
    assert block.pop("id").startswith("toolu_")
    assert block == {"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}
    assert whole["stop_reason"] == "tool_use"
    _, start, *deltas, stop, end, _ = events
    begun = start["content_block"]
    assert (begun["type"], begun["name"], begun["input"]) == ("tool_use", "weather", {})
    assert {event["delta"]["type"] for event in deltas} == {"input_json_delta"}
    assert "".join(event["delta"]["partial_json"] for event in deltas) == OSLO
    assert stop == {"type": "content_block_stop", "index": 0}
    assert end["delta"]["stop_reason"] == "tool_use"


async def test_words_and_calls_are_blocks_in_their_order() -> None:
    """Each begins after the one before has ended."""
    text = f"Let me look.\n{CALL}\n{CALL}"
    message = await message_of(text)
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert len({block.id for block in message.content[1:]}) == 2
    async with model(text) as server:
        events = await stream(server, tools=[WEATHER], max_tokens=400)
    kinds = [
        (event["type"], event["index"])
        for event in events
        if event["type"] in ("content_block_start", "content_block_stop")
    ]
    assert kinds == [(f"content_block_{word}", at) for at in range(3) for word in ("start", "stop")]


async def test_what_is_no_call_stays_text() -> None:
    """No tool is called that was not offered."""
    message = await message_of(CALL, tools=[TIME])
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "end_turn"


async def test_a_call_that_is_cut_off_shows_what_there_is() -> None:
    """By the reference's name for an input that is no JSON."""
    message = await message_of(CALL, max_tokens=52)
    (block,) = message.content
    assert message.stop_reason == "max_tokens"
    assert OSLO.startswith(block.input["INVALID_JSON"])


async def test_without_parallel_use_there_is_one_call() -> None:
    """The message ends with the first."""
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = await message_of(CALL + CALL, tool_choice=choice)
    assert (len(message.content), message.stop_reason) == (1, "tool_use")


async def test_choice_none_offers_nothing_and_reads_no_call() -> None:
    """The model is not told of the tools."""
    async with model(CALL) as server:
        body = (await ask(server, tools=[WEATHER], tool_choice={"type": "none"})).json()
        assert prompt_of(server) == "<user>hi\n<assistant>"
    assert body["content"] == [{"type": "text", "text": CALL}]


async def test_tools_reach_the_template_as_functions() -> None:
    """Name, description and schema."""
    async with model("x", HERMES) as server:
        await ask(server, tools=[WEATHER])
        told = prompt_of(server).splitlines()[0]
    assert '"function": {"name": "weather", "description": "of a city", "parameters": ' in told


async def test_calls_and_results_reach_the_template() -> None:
    """Results before the words of the same message; a failed one says so."""
    failed = {**RESULT, "is_error": True, "content": [{"type": "text", "text": "no net"}]}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    turns = [
        USER,
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "So:"}, USE]},
        {"role": "user", "content": [failed, {"type": "text", "text": "why?"}]},
    ]
    async with model("x", HERMES) as server:
        response = await ask(server, messages=turns, tools=[WEATHER])
        assert response.status_code == 200
        _, user, call, result, words, _ = prompt_of(server).split("\n")
    assert (user, words) == ("<user>hi", "<user>why?")
    assert call.startswith("<assistant>So:")
    assert '"reasoning_content": "Hm."' in call
    assert '"name": "weather", "arguments": {"city": "Oslo"}' in call
    assert result == '<tool>Error: no net{"tool_call_id": "toolu_1"}'


async def test_counting_reads_the_tools_too() -> None:
    """They are part of the prompt."""
    async with model("x", HERMES) as server:
        with_tools = (await count(server, messages=CALLED, tools=[WEATHER])).json()
        without = (await count(server, messages=CALLED)).json()
    assert with_tools["input_tokens"] > without["input_tokens"]


async def test_the_answer_goes_on_from_a_last_message_of_the_assistant() -> None:
    """And does not repeat it."""
    begun = [USER, {"role": "assistant", "content": "The answer is"}]
    async with model(" 7") as server:
        body = (await ask(server, messages=begun)).json()
        assert prompt_of(server) == "<user>hi\n<assistant>The answer is"
    assert body["content"] == [{"type": "text", "text": " 7"}]


async def test_thinking_is_a_block_of_its_own() -> None:
    """Before the text, counted apart, whole and streamed."""
    thinking = {"type": "adaptive", "display": "summarized"}
    async with model(THOUGHT, HERMES) as server:
        whole = (await ask(server, thinking=thinking)).json()
        events = await stream(server, thinking=thinking)
        assert prompt_of(server).startswith('{"enable_thinking": true}')
    assert whole["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    details = {"thinking_tokens": len("<think>\nHm.\n</think>")}
    assert whole["usage"]["output_tokens_details"] == details
    assert events[-2]["usage"]["output_tokens_details"] == details
    thoughts = [event["delta"].get("thinking", "") for event in events if "delta" in event]
    assert "".join(thoughts) == "Hm."


@pytest.mark.parametrize(
    ("variables", "thinking", "told"),
    [
        ({"enable_thinking"}, {"type": "disabled"}, '{"enable_thinking": false}'),
        ({"reasoning_effort"}, {"type": "adaptive"}, '{"reasoning_effort": "medium"}'),
        (
            {"reasoning_effort"},
            {"type": "enabled", "budget_tokens": 2000},
            '{"reasoning_effort": "low"}',
        ),
        (
            {"reasoning_effort"},
            {"type": "enabled", "budget_tokens": 20_000},
            '{"reasoning_effort": "high"}',
        ),
        (set(), {"type": "disabled"}, "<user>hi"),
    ],
)
async def test_thinking_reaches_the_template_in_its_words(
    variables: set[str], thinking: dict[str, Any], told: str
) -> None:
    """A budget is a target, and chooses a level where the template has levels."""
    dialect = FakeDialect(variables=frozenset(variables))
    async with model("x", dialect) as server:
        response = await ask(server, thinking=thinking, max_tokens=32_000)
        assert response.status_code == 200, response.text
        assert prompt_of(server).splitlines()[0] == told


@pytest.mark.parametrize(
    ("dialect", "kind", "words"),
    [
        (FakeDialect(), "adaptive", "does not reason"),
        (FakeDialect(think_start="<think>", think_end="</think>"), "disabled", "always reasons"),
    ],
)
async def test_thinking_that_the_model_cannot_do_is_refused(
    dialect: FakeDialect, kind: str, words: str
) -> None:
    """Before anything is generated."""
    async with model("x", dialect) as server:
        status, _, text = error_of(await ask(server, thinking={"type": kind}))
        assert not server.engine.submitted
    assert status == 400
    assert text.startswith("thinking: ")
    assert words in text


ASSISTANT = {"role": "assistant", "content": [USE]}
SAID = {"type": "text", "text": "x"}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER, ASSISTANT]}, "messages[1].content"),
    ({"messages": [USER, ASSISTANT, USER]}, "messages[1].content"),
    ({"messages": [USER, ASSISTANT, ASSISTANT]}, "messages[1].content"),
    (
        {"messages": [USER, {"role": "user", "content": [RESULT]}]},
        "messages[1].content[0].tool_use_id",
    ),
    (
        {"messages": [USER, ASSISTANT, {"role": "user", "content": [SAID, RESULT]}]},
        "messages[2].content[1]",
    ),
    ({"messages": [{"role": "user", "content": [USE]}]}, "messages[0].content"),
    ({"messages": [USER, {"role": "assistant", "content": "ends "}]}, "messages[1].content"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1024},
        "thinking.budget_tokens",
    ),
]


async def test_calls_and_choices_that_make_no_sense_are_named() -> None:
    """By the path of what is wrong."""
    async with model("x", HERMES) as server:
        for fields, path in WRONG:
            status, kind, text = error_of(await ask(server, **fields))
            assert (status, kind) == (400, "invalid_request_error"), text
            assert text.startswith(path), (text, path)
        assert not server.engine.submitted
