"""Responses and Anthropic's messages on the real server: the same words as chat completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.acceptance.serving.asking import QUESTIONS, model_of
from tests.acceptance.serving.process import ServerProcess, started

pytestmark = pytest.mark.anyio
CHAINS = (None, "a4")
MOST = 24
SYSTEM = "Answer at once."


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> Iterator[ServerProcess]:
    """One server for all tests here."""
    adapters = {"a4": tiny_adapters["a4"]}
    scratch = tmp_path_factory.mktemp("other_apis")
    with started(scratch, tiny_model, adapters, "--port", "0", "--no-supervise") as process:
        process.serving()
        yield process


@pytest.fixture
async def openai(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client."""
    url = f"{server.serving()}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic(server: ServerProcess) -> AsyncIterator[AsyncAnthropic]:
    """Anthropic's client."""
    url = server.serving()
    async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def completed(client: AsyncOpenAI, chain: str | None, question: str) -> Any:
    """What chat completions say, greedily."""
    return await client.chat.completions.create(
        model=model_of(chain),
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
        temperature=0,
        max_tokens=MOST,
    )


async def responded(client: AsyncOpenAI, chain: str | None, question: str) -> Any:
    """The same of a streamed response."""
    async with client.responses.stream(
        model=model_of(chain),
        instructions=SYSTEM,
        input=question,
        temperature=0,
        max_output_tokens=MOST,
    ) as stream:
        return [event async for event in stream][-1].response  # type: ignore[union-attr]


async def messaged(client: AsyncAnthropic, chain: str | None, question: str) -> Any:
    """The same of a streamed message."""
    async with client.messages.stream(
        model=model_of(chain),
        system=SYSTEM,
        messages=[{"role": "user", "content": question}],
        max_tokens=MOST,
        extra_body={"temperature": 0},
    ) as stream:
        return await stream.get_final_message()


async def test_every_api_says_the_same_in_one_batch(
    openai: AsyncOpenAI, anthropic: AsyncAnthropic
) -> None:
    """The base and a chain, all at once: the wording of a request changes nothing in its answer."""
    asked = [(chain, question) for chain in CHAINS for question in QUESTIONS[:2]]
    alone = [await completed(openai, *each) for each in asked]
    together = await asyncio.gather(
        *(responded(openai, *each) for each in asked),
        *(messaged(anthropic, *each) for each in asked),
    )
    responses, messages = together[: len(asked)], together[len(asked) :]
    texts = [answer.choices[0].message.content for answer in alone]
    assert len(set(texts)) == len(asked)
    assert [response.output_text for response in responses] == texts
    assert ["".join(block.text for block in message.content) for message in messages] == texts
    for answer, response, message in zip(alone, responses, messages, strict=True):
        usage = message.usage
        read = usage.input_tokens + usage.cache_read_input_tokens
        assert answer.usage.prompt_tokens == response.usage.input_tokens == read
        assert answer.usage.completion_tokens == response.usage.output_tokens
        assert answer.usage.completion_tokens == usage.output_tokens


async def test_a_conversation_by_id_is_the_conversation_sent_whole(openai: AsyncOpenAI) -> None:
    """For a chain that answers after the base did."""
    first = await responded(openai, None, QUESTIONS[0])
    by_id = await openai.responses.create(
        model=model_of("a4"),
        input=QUESTIONS[1],
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=MOST,
    )
    history: Any = [
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": QUESTIONS[1]},
    ]
    whole = await openai.responses.create(
        model=model_of("a4"), input=history, temperature=0, max_output_tokens=MOST
    )
    assert by_id.output_text == whole.output_text
    assert by_id.usage is not None
    assert whole.usage is not None
    assert by_id.usage.input_tokens == whole.usage.input_tokens


async def test_counted_tokens_are_those_of_the_message(anthropic: AsyncAnthropic) -> None:
    """By the model's own tokenizer and template."""
    counted = await anthropic.messages.count_tokens(
        model=model_of("a4"),
        system=SYSTEM,
        messages=[{"role": "user", "content": QUESTIONS[0]}],
    )
    message = await messaged(anthropic, "a4", QUESTIONS[0])
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_required_call_is_valid_by_every_api(
    chain: str | None, openai: AsyncOpenAI, anthropic: AsyncAnthropic
) -> None:
    """The tiny model knows nothing of tools; what it is held to makes a call of its words."""
    schema = {
        "type": "object",
        "properties": {"day": {"enum": ["today", "tomorrow"]}},
        "required": ["day"],
        "additionalProperties": False,
    }
    function: Any = {"type": "function", "name": "weather", "parameters": schema, "strict": True}
    response = await openai.responses.create(
        model=model_of(chain),
        input=QUESTIONS[0],
        tools=[function],
        tool_choice="required",
        temperature=0,
    )
    tool: Any = {"name": "weather", "input_schema": schema, "strict": True}
    message = await anthropic.messages.create(
        model=model_of(chain),
        messages=[{"role": "user", "content": QUESTIONS[0]}],
        tools=[tool],
        tool_choice={"type": "tool", "name": "weather"},
        max_tokens=200,
        extra_body={"temperature": 0},
    )
    calls = [json.loads(item.arguments) for item in response.output if item.type == "function_call"]
    uses = [block.input for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert len(uses) == 1
    assert calls
    assert all(call["day"] in ("today", "tomorrow") for call in [*calls, *uses])
