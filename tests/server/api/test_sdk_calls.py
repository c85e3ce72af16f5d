"""The official OpenAI SDK calls tools through this server: sync, async, streamed, parsed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anyio.to_thread
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from server.core.messages import Generate
from tests.fake_tokenizer import FakeTokenizer
from tests.fakes import FakeEngine
from tests.server.api.serving import BASE, Served, serving_model
from tests.server.api.toolbox import CALL, HERMES, OSLO, WEATHER

pytestmark = pytest.mark.anyio

ASK: Any = {"role": "user", "content": "Rain?"}
TOOLS: Any = [WEATHER]


def agent(request: Generate) -> Iterable[int]:
    """Calls the tool, and tells its result once it has one."""
    prompt = bytes(request.prompt[1:]).decode()
    answered = '"tool_call_id"' in prompt
    return b"<think>I know.</think>It rains." if answered else f"Look: {CALL}".encode()


def served() -> Any:
    """A server with that model."""
    engine = FakeEngine(script=agent, context=4096)
    return serving_model(engine, FakeTokenizer(max_context=4096, dialect=HERMES))


def url(server: Served) -> str:
    """Where clients reach it."""
    return f"http://127.0.0.1:{server.port}/v1"


async def test_a_tool_is_called_and_its_result_told() -> None:
    """Two turns, the SDK's own message given back as it came."""
    async with served() as server:

        def talk() -> tuple[Any, Any]:
            with OpenAI(base_url=url(server), api_key="x", max_retries=0) as client:
                first = client.chat.completions.create(model=BASE, messages=[ASK], tools=TOOLS)
                message = first.choices[0].message
                assert message.tool_calls
                result: Any = {
                    "role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain",
                }  # fmt: skip
                told: Any = [ASK, message, result]
                second = client.chat.completions.create(model=BASE, messages=told, tools=TOOLS)
                return first, second

        first, second = await anyio.to_thread.run_sync(talk)
    (choice,) = first.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look:")
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "weather", OSLO)
    assert second.choices[0].message.content == "It rains."
    assert second.choices[0].message.reasoning_content == "I know."
    assert second.usage.completion_tokens_details.reasoning_tokens == len("<think>I know.</think>")


async def test_the_stream_helper_puts_the_call_together() -> None:
    """Its events and its snapshot, by the SDK's own accumulation."""
    async with (
        served() as server,
        AsyncOpenAI(base_url=url(server), api_key="x", max_retries=0) as client,
        client.chat.completions.stream(model=BASE, messages=[ASK], tools=TOOLS) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", OSLO)
    assert final.choices[0].message.content == "Look:"
    kinds = [event.type for event in events]
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    assert "content.done" in kinds


async def test_a_plain_stream_has_deltas_by_index() -> None:
    """As programs read them that put the call together themselves."""
    arguments = ""
    async with (
        served() as server,
        AsyncOpenAI(base_url=url(server), api_key="x", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model=BASE, messages=[ASK], tools=TOOLS, stream=True
        )
        async for chunk in stream:
            for delta in chunk.choices[0].delta.tool_calls or []:
                assert delta.index == 0
                assert delta.function is not None
                arguments += delta.function.arguments or ""
    assert arguments == OSLO


class Weather(BaseModel):
    """The weather of a city."""

    city: str


async def test_parse_makes_objects_of_arguments() -> None:
    """With the SDK's strict tools, whose arguments always fit."""
    async with (
        served() as server,
        AsyncOpenAI(base_url=url(server), api_key="x", max_retries=0) as client,
    ):
        tool = openai.pydantic_function_tool(Weather, name="weather")
        answer = await client.chat.completions.parse(model=BASE, messages=[ASK], tools=[tool])
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Oslo")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
