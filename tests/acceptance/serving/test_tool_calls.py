"""Calls that must be made, by a model without sense, on the real server beside free rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai import AsyncOpenAI

from tests.acceptance.serving.asking import model_of
from tests.acceptance.serving.process import ServerProcess, started

pytestmark = pytest.mark.anyio
CHAINS = (None, "a4")
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "forecast", "parameters": SCHEMA}}
QUESTION: Any = {"role": "user", "content": "How will the weather be in Oslo?"}


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> Iterator[ServerProcess]:
    """One server for all tests here."""
    scratch = tmp_path_factory.mktemp("tool_calls")
    adapters = {"a4": tiny_adapters["a4"]}
    with started(scratch, tiny_model, adapters, "--port", "0", "--no-supervise") as process:
        process.serving()
        yield process


@pytest.fixture
async def openai(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client."""
    url = f"{server.serving()}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def called(client: AsyncOpenAI, chain: str | None, seed: int) -> Any:
    """The choice of a request whose call must be made, streamed for odd seeds."""
    asked: dict[str, Any] = {
        "model": model_of(chain),
        "messages": [QUESTION],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 1,
        "seed": seed,
        "max_tokens": 90,
    }
    if seed % 2:
        async with client.chat.completions.stream(**asked) as stream:
            return (await stream.get_final_completion()).choices[0]
    return (await client.chat.completions.create(**asked)).choices[0]


async def free(client: AsyncOpenAI, chain: str | None) -> str | None:
    """What a row without tools says, greedily."""
    answer = await client.chat.completions.create(
        model=model_of(chain), messages=[QUESTION], temperature=0, max_tokens=24
    )
    return answer.choices[0].message.content


async def test_required_calls_are_valid_or_the_reply_says_length(openai: AsyncOpenAI) -> None:
    """By the base and by a chain at temperature 1; rows beside them say what they say alone."""
    alone = [await free(openai, chain) for chain in CHAINS]
    rows = [called(openai, chain, seed) for chain in CHAINS for seed in range(4)]
    beside = [free(openai, chain) for chain in CHAINS]
    choices, words = await asyncio.gather(asyncio.gather(*rows), asyncio.gather(*beside))
    assert words == alone
    whole = [choice for choice in choices if choice.finish_reason == "tool_calls"]
    assert whole
    assert {choice.finish_reason for choice in choices} <= {"tool_calls", "length"}
    for choice in whole:
        (call,) = choice.message.tool_calls
        assert call.function.name == "forecast"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
        assert not choice.message.content
