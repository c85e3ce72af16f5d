"""Functions and reasoning in ``POST /v1/responses``, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseItemList

from tests.fake_tokenizer import FakeDialect
from tests.server.api.responses.asking import LOGPROBS, URL, answer, ask, stream, text_of
from tests.server.api.serving import error_of
from tests.server.api.strict import strictly
from tests.server.api.toolbox import CALL, CITY, DIALECTS, HERMES, OSLO, model, prompt_of

pytestmark = pytest.mark.anyio
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "of a city",
    "parameters": CITY,
    "strict": False,
}
TIME = {"type": "function", "name": "time", "parameters": None, "strict": None}
CALLED = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": OSLO}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
USER = {"role": "user", "content": "hi"}
THOUGHT = "<think>\nHm.\n</think>\n\nYes."


async def output_of(text: str, dialect: FakeDialect | None = None, **fields: Any) -> Any:
    """The output of a model that says ``text``."""
    async with model(text, dialect) as server:
        return (await answer(server, **{"tools": [WEATHER, TIME], **fields}))["output"]


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_call_is_an_item_with_its_arguments(name: str) -> None:
    """However the model wrote it, and the same at the end of a stream."""
    dialect, text = DIALECTS[name]
    (item,) = await output_of(text, dialect)
    assert item.pop("id").startswith("fc_")
    assert item.pop("call_id").startswith("call_")
    assert item == {
        "type": "function_call",
        "status": "completed",
        "name": "weather",
        "arguments": OSLO,
    }
    async with model(text, dialect) as server:
        events = await stream(server, tools=[WEATHER])
    _, _, added, *deltas, done, item_done, completed = events
    assert (added["item"]["name"], added["item"]["arguments"]) == ("weather", "")
    assert {event["type"] for event in deltas} == {"response.function_call_arguments.delta"}
    assert "".join(event["delta"] for event in deltas) == done["arguments"] == OSLO
    assert done["type"] == "response.function_call_arguments.done"
    assert item_done["item"]["status"] == "completed"
    assert completed["response"]["output"] == [item_done["item"]]


async def test_words_and_calls_are_items_in_their_order() -> None:
    """Each begins after the one before has ended."""
    text = f"Let me look.\n{CALL}\n{CALL}"
    words, first, second = await output_of(text)
    assert [words["type"], first["type"], second["type"]] == ["message", *["function_call"] * 2]
    assert first["call_id"] != second["call_id"]
    async with model(text) as server:
        events = await stream(server, tools=[WEATHER])
    kinds = [
        (event["type"].rpartition(".")[2], event["output_index"])
        for event in events
        if event["type"].startswith("response.output_item")
    ]
    assert kinds == [(word, place) for place in range(3) for word in ("added", "done")]


async def test_a_call_that_is_cut_off_is_incomplete() -> None:
    """With the arguments that there are."""
    async with model(CALL) as server:
        body = await answer(server, tools=[WEATHER], max_output_tokens=52)
    (item,) = body["output"]
    assert body["status"] == item["status"] == "incomplete"
    assert OSLO.startswith(item["arguments"])


async def test_tools_and_their_choice_come_back() -> None:
    """As they were sent."""
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "weather"}],
    }
    async with model("x") as server:
        body = await answer(server, tools=[WEATHER, TIME], tool_choice=allowed)
        none = await answer(server, tools=[WEATHER], tool_choice="none", parallel_tool_calls=False)
    assert (body["tools"], body["tool_choice"]) == ([WEATHER, TIME], allowed)
    assert body["parallel_tool_calls"] is True
    assert (none["tool_choice"], none["parallel_tool_calls"]) == ("none", False)


async def test_choices_decide_what_may_be_called() -> None:
    """Nothing with none, only what is allowed, and one call where parallel ones are not."""
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "time"}],
    }
    for choice in ("none", allowed):
        (item,) = await output_of(CALL, tool_choice=choice)
        assert item["type"] == "message"
    assert len(await output_of(CALL + CALL, parallel_tool_calls=False)) == 1


async def test_tools_calls_and_results_reach_the_template() -> None:
    """An answer's thoughts, words and calls are one message; parts of a result are one text."""
    items: list[dict[str, Any]] = [
        USER,
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {"role": "assistant", "content": "So:"},
        CALLED,
        {**CALLED, "call_id": "call_2"},
        RESULT,
        {**RESULT, "call_id": "call_2", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    async with model("x", HERMES) as server:
        body = await answer(server, input=items, tools=[WEATHER])
        told, _, call, rain, sun, _ = prompt_of(server).split("\n")
        listed = (await server.http.get(f"{URL}/{body['id']}/input_items?order=asc")).json()
    assert '"function": {"name": "weather", "description": "of a city", "parameters": ' in told
    assert call.startswith("<assistant>So:")
    assert '"reasoning_content": "Hm."' in call
    assert call.count('"arguments": {"city": "Oslo"}') == 2
    assert rain == '<tool>rain{"tool_call_id": "call_1"}'
    assert sun == '<tool>sun{"tool_call_id": "call_2"}'
    strictly(ResponseItemList, listed)
    assert [item["type"] for item in listed["data"]] == [
        "message",
        "reasoning",
        "message",
        *["function_call"] * 2,
        *["function_call_output"] * 2,
    ]


async def test_a_call_is_answered_by_id() -> None:
    """The conversation that is kept has the call."""
    async with model(CALL, HERMES) as server:
        first = await answer(server, tools=[WEATHER])
        call_id = first["output"][0]["call_id"]
        result = {**RESULT, "call_id": call_id}
        await answer(server, input=[result], previous_response_id=first["id"], tools=[WEATHER])
        lines = prompt_of(server).split("\n")
        forgotten = await ask(server, input="and?", previous_response_id=first["id"])
    assert lines[-2] == f'<tool>rain{{"tool_call_id": "{call_id}"}}'
    assert error_of(forgotten)["param"] == "input"
    assert call_id in error_of(forgotten)["message"]


async def test_reasoning_is_an_item_of_its_own() -> None:
    """Before the message, counted apart, whole and streamed."""
    reasoning = {"effort": "low"}
    async with model(THOUGHT, HERMES) as server:
        whole = await answer(server, reasoning=reasoning)
        events = await stream(server, reasoning=reasoning)
        assert prompt_of(server).startswith('{"enable_thinking": true}')
    thought, message = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert (thought["summary"], message["content"][0]["text"]) == ([], "Yes.")
    assert whole["reasoning"] == {"effort": "low", "summary": None}
    count = len("<think>\nHm.\n</think>")
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": count}
    kinds = [event["type"] for event in events if event.get("output_index") == 0]
    assert list(dict.fromkeys(kinds)) == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]


async def test_token_reports_are_those_of_the_words() -> None:
    """Thoughts and calls have none."""
    async with model(THOUGHT, HERMES) as server:
        body = await answer(server, include=[LOGPROBS])
    reports = body["output"][1]["content"][0]["logprobs"]
    assert "".join(report["token"] for report in reports) == "Yes."


async def test_effort_that_the_model_cannot_be_told_is_refused() -> None:
    """By its name here."""
    async with model("x") as server:
        refused = await ask(server, reasoning={"effort": "low"})
        none = await answer(server, reasoning={})
        assert len(server.engine.submitted) == 1
    assert (refused.status_code, error_of(refused)["param"]) == (400, "reasoning.effort")
    assert text_of(none) == "x"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": [USER, CALLED]}, "input"),
    ({"input": [USER, CALLED, USER]}, "input"),
    ({"input": [USER, RESULT]}, "input"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    (
        {
            "tools": [WEATHER],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "x"}],
            },
        },
        "tool_choice.tools[0].name",
    ),
]


async def test_calls_and_choices_that_make_no_sense_are_named() -> None:
    """By what is wrong."""
    async with model("x", HERMES) as server:
        for fields, param in WRONG:
            refused = await ask(server, **fields)
            assert (refused.status_code, error_of(refused)["param"]) == (400, param)
        assert not server.engine.submitted
