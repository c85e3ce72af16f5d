"""The official Anthropic SDK, unchanged, against this server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import anyio.to_thread
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.fakes import FakeEngine, saying
from tests.server.api.serving import BASE, PIRATE, Served, serving

pytestmark = pytest.mark.anyio
MESSAGES: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def sdk() -> AsyncIterator[tuple[AsyncAnthropic, Served]]:
    """A server that says hello, and an SDK client that points at it and never repeats."""
    async with serving(FakeEngine(script=saying("hello"))) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            yield client, server


async def test_messages_work() -> None:
    """The base and a chain, by name."""
    async with sdk() as (client, _):
        for model in (BASE, PIRATE):
            answer = await client.messages.create(
                model=model, messages=MESSAGES, max_tokens=16, system="be brief"
            )
            assert answer.model == model
            assert [block.text for block in answer.content if block.type == "text"] == ["hello"]
            assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 5)


async def test_an_answer_goes_back_in_as_it_came() -> None:
    """The SDK sends its own objects, with the fields that it adds."""
    async with sdk() as (client, server):
        first = await client.messages.create(model=BASE, messages=MESSAGES, max_tokens=16)
        turns = [*MESSAGES, first.to_param(), *MESSAGES]
        await client.messages.create(model=BASE, messages=turns, max_tokens=16)
        prompt = bytes(server.engine.submitted[1].prompt[1:])
    assert prompt == b"<user>hi\n<assistant>hello\n<user>hi\n<assistant>"


async def test_raw_streams_work() -> None:
    """``stream=True`` gives the events themselves."""
    async with sdk() as (client, _):
        stream = await client.messages.create(
            model=PIRATE, messages=MESSAGES, max_tokens=16, stream=True
        )
        kinds = [event.type async for event in stream]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_the_stream_helper_puts_the_message_together() -> None:
    """Text as it comes, and the final message with its usage."""
    async with (
        sdk() as (client, _),
        client.messages.stream(model=BASE, messages=MESSAGES, max_tokens=3) as stream,
    ):
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "hel"
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 3)
    assert final.usage.input_tokens == 21


async def test_tokens_are_counted() -> None:
    """Without a row in the engine."""
    async with sdk() as (client, server):
        counted = await client.messages.count_tokens(model=PIRATE, messages=MESSAGES)
        assert not server.engine.submitted
    assert counted.input_tokens == 21


async def test_the_synchronous_client_works_as_well() -> None:
    """From a thread, as scripts use it: whole, streamed, and counted."""
    async with sdk() as (_, server):

        def use() -> tuple[str, str, int]:
            url = f"http://127.0.0.1:{server.port}"
            with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
                whole = client.messages.create(model=BASE, messages=MESSAGES, max_tokens=16)
                with client.messages.stream(model=BASE, messages=MESSAGES, max_tokens=16) as stream:
                    text = "".join(stream.text_stream)
                counted = client.messages.count_tokens(model=BASE, messages=MESSAGES)
            block = whole.content[0]
            assert block.type == "text"
            return block.text, text, counted.input_tokens

        assert await anyio.to_thread.run_sync(use) == ("hello", "hello", 21)


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdk_s_own_exceptions(stream: bool) -> None:
    """Programs catch these classes, for streams too."""
    async with sdk() as (client, server):
        ask: Any = client.messages.create
        fields: Any = {"messages": MESSAGES, "max_tokens": 16, "stream": stream}
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await ask(model="other", **fields)
        with pytest.raises(anthropic.BadRequestError, match="inference_geo"):
            await ask(model=BASE, inference_geo="eu", **fields)
        server.engine.poison()
        with pytest.raises(anthropic.InternalServerError) as failed:
            await ask(model=BASE, **fields)
    assert unknown.value.request_id
    assert unknown.value.type == "not_found_error"
    assert failed.value.status_code == 503


async def test_a_failure_within_a_stream_is_raised_by_the_sdk() -> None:
    """The error event has the form that the SDK looks for."""
    async with sdk() as (client, server):
        server.engine.hold()
        server.engine.step()
        stream = await client.messages.create(
            model=BASE, messages=MESSAGES, max_tokens=16, stream=True
        )
        server.engine.poison()
        with pytest.raises(anthropic.APIStatusError, match="device failed"):
            [event async for event in stream]
