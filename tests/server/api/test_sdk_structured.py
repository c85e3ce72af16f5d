"""Answers held to a schema or to a tool, through the SDKs, whatever the model would say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.server.api.anthropic.asking import ask as ask_message
from tests.server.api.responses.asking import answer, ask
from tests.server.api.serving import BASE, error_of
from tests.server.api.toolbox import CITY, model

pytestmark = pytest.mark.anyio
QUESTION: Any = {"role": "user", "content": "hi"}
STRICT = {**CITY, "required": ["city"], "additionalProperties": False}


class Place(BaseModel):
    """What the answer must be."""

    city: str
    rainy: bool


@asynccontextmanager
async def talkative() -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client of a model that would rather say something else."""
    async with model("Well, let me think about it.") as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client


async def test_responses_are_parsed_into_the_client_s_types() -> None:
    """``parse``, and the same from the stream helper."""
    async with talkative() as client:
        parsed = await client.responses.parse(model=BASE, input="hi", text_format=Place)
        async with client.responses.stream(model=BASE, input="hi", text_format=Place) as stream:
            async for _ in stream:
                pass
            streamed = await stream.get_final_response()
    assert isinstance(parsed.output_parsed, Place)
    assert isinstance(streamed.output_parsed, Place)


async def test_a_response_may_be_any_json_object() -> None:
    """``json_object`` asks for no schema."""
    async with talkative() as client:
        form: Any = {"format": {"type": "json_object"}}
        response = await client.responses.create(model=BASE, input="hi", text=form)
    assert isinstance(json.loads(response.output_text), dict)


async def test_a_message_follows_the_format_of_its_request() -> None:
    """Anthropic's ``output_config``."""
    form: Any = {"format": {"type": "json_schema", "schema": Place.model_json_schema()}}
    async with model("Well, let me think about it.") as server:
        url = f"http://127.0.0.1:{server.port}"
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            message = await client.messages.create(
                model=BASE, messages=[QUESTION], max_tokens=100, output_config=form
            )
    block = message.content[0]
    assert block.type == "text"
    Place.model_validate_json(block.text)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
async def test_a_required_function_is_called(choice: Any) -> None:
    """With arguments that follow its schema."""
    tool = {"type": "function", "name": "weather", "parameters": STRICT, "strict": True}
    async with model("Well, let me think about it.") as server:
        body = await answer(server, tools=[tool], tool_choice=choice)
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    assert calls
    assert all(set(json.loads(call["arguments"])) == {"city"} for call in calls)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_required_tool_is_used(choice: Any) -> None:
    """With an input that follows its schema."""
    tool = {"name": "weather", "input_schema": STRICT, "strict": True}
    async with model("Well, let me think about it.") as server:
        response = await ask_message(server, tools=[tool], tool_choice=choice, max_tokens=400)
    body = response.json()
    uses = [block for block in body["content"] if block["type"] == "tool_use"]
    assert body["stop_reason"] == "tool_use"
    assert uses
    assert all(set(use["input"]) == {"city"} for use in uses)


async def test_a_schema_that_cannot_be_followed_is_refused_by_its_field() -> None:
    """Before anything is generated."""
    broken = {"type": "object", "properties": {"a": {"type": "nonsense"}}}
    form = {"format": {"type": "json_schema", "name": "a", "schema": broken}}
    async with model("x") as server:
        response = await ask(server, text=form)
        config = {"format": {"type": "json_schema", "schema": broken}}
        message = await ask_message(server, output_config=config)
        assert not server.engine.submitted
    assert (response.status_code, error_of(response)["param"]) == (400, "text.format.schema")
    assert message.status_code == 400
    assert message.json()["error"]["type"] == "invalid_request_error"


async def test_a_schema_that_cannot_be_followed_is_the_sdk_s_exception() -> None:
    """With the field."""
    form: Any = {"format": {"type": "json_schema", "name": "a", "schema": {"type": 7}}}
    async with talkative() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=BASE, input="hi", text=form)
    assert refused.value.param == "text.format.schema"
