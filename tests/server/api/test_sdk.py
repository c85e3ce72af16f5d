"""The official OpenAI SDK, unchanged, against this server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fakes import FakeEngine, saying
from tests.server.api.serving import BASE, PIRATE, Served, serving

pytestmark = pytest.mark.anyio
MESSAGES: Any = [{"role": "user", "content": "hi"}]
HELLO = saying("hello")


@asynccontextmanager
async def sdk(**changes: Any) -> AsyncIterator[tuple[AsyncOpenAI, Served]]:
    """A server that says hello, and an SDK client that points at it and never repeats."""
    async with serving(FakeEngine(script=HELLO), **changes) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client, server


async def test_chat_completions_work() -> None:
    """The base and an adapter, by name."""
    async with sdk() as (client, _):
        for model in (BASE, PIRATE):
            answer = await client.chat.completions.create(model=model, messages=MESSAGES)
            assert answer.model == model
            assert answer.choices[0].message.content == "hello"
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 5


async def test_chat_streams_work() -> None:
    """With usage and reports, through the SDK's own parser."""
    async with sdk() as (client, _):
        stream = await client.chat.completions.create(
            model=PIRATE,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
            top_logprobs=1,
        )
        chunks = [chunk async for chunk in stream]
    *chunks, usage = chunks
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    reports = chunks[1].choices[0].logprobs
    assert reports is not None
    assert [report.token for report in reports.content or []] == ["h"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert usage.usage is not None
    assert usage.usage.total_tokens == usage.usage.prompt_tokens + 5


async def test_completions_work_whole_and_streamed() -> None:
    """The legacy endpoint is what evaluation harnesses use."""
    async with sdk() as (client, _):
        answer = await client.completions.create(model=BASE, prompt="x", logprobs=2)
        stream = await client.completions.create(model=PIRATE, prompt=[120], stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert answer.choices[0].text == text == "hello"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset == [0, 1, 2, 3, 4]


async def test_models_are_listed_and_found_by_every_listed_id() -> None:
    """Ids with slashes and colons survive the SDK's path quoting."""
    async with sdk() as (client, _):
        ids = [model.id async for model in client.models.list()]
        assert ids == [BASE, PIRATE]
        assert [(await client.models.retrieve(model)).id for model in ids] == ids


async def test_the_synchronous_client_works_as_well() -> None:
    """From a thread, as scripts use it."""
    async with sdk() as (_, server):

        def ask() -> str:
            url = f"http://127.0.0.1:{server.port}/v1"
            with OpenAI(base_url=url, api_key="none") as client:
                chunks = client.chat.completions.create(model=BASE, messages=MESSAGES, stream=True)
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

        assert await anyio.to_thread.run_sync(ask) == "hello"


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdk_s_own_exceptions(stream: bool) -> None:
    """Programs catch these classes and read these fields, for streams too."""
    async with sdk() as (client, server):
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="other", messages=MESSAGES, stream=stream)
        with pytest.raises(openai.BadRequestError) as unsupported:
            await client.chat.completions.create(
                model=BASE, messages=MESSAGES, stream=stream, modalities=["audio"]
            )
        server.engine.poison()
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model=BASE, messages=MESSAGES, stream=stream)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert (unsupported.value.code, unsupported.value.param) == (
        "unsupported_parameter",
        "modalities",
    )
    assert (failed.value.status_code, failed.value.code) == (503, "engine_failed")


async def test_a_failure_within_a_stream_is_raised_by_the_sdk() -> None:
    """The error event has the form that the SDK looks for."""
    async with sdk() as (client, server):
        server.engine.hold()
        server.engine.step()
        stream = await client.chat.completions.create(model=BASE, messages=MESSAGES, stream=True)
        server.engine.poison()
        with pytest.raises(openai.APIError, match="device failed"):
            [chunk async for chunk in stream]
