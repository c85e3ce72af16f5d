"""``client.responses`` of the official OpenAI SDK, unchanged, against this server."""

from __future__ import annotations

import asyncio
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


@asynccontextmanager
async def sdk() -> AsyncIterator[tuple[AsyncOpenAI, Served]]:
    """A server that says hello, and an SDK client that points at it and never repeats."""
    async with serving(FakeEngine(script=saying("hello"))) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client, server


async def test_responses_work() -> None:
    """The base and a chain, by name."""
    async with sdk() as (client, _):
        for model in (BASE, PIRATE):
            answer = await client.responses.create(model=model, input="hi")
            assert (answer.model, answer.status, answer.output_text) == (
                model,
                "completed",
                "hello",
            )
            assert answer.usage is not None
            assert answer.usage.output_tokens == 5


async def test_raw_streams_work() -> None:
    """``stream=True`` gives the events themselves."""
    async with sdk() as (client, _):
        stream = await client.responses.create(model=PIRATE, input="hi", stream=True)
        kinds = [event.type async for event in stream]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 5,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_the_stream_helper_puts_the_response_together() -> None:
    """Its snapshots follow the events, and its end is the response that is kept."""
    async with sdk() as (client, _), client.responses.stream(model=BASE, input="hi") as stream:
        texts = [
            event.snapshot async for event in stream if event.type == "response.output_text.delta"
        ]
        final = await stream.get_final_response()
        kept = await client.responses.retrieve(final.id)
    assert texts == ["h", "he", "hel", "hell", "hello"]
    assert final.output_text == kept.output_text == "hello"
    assert kept.status == "completed"


async def test_a_conversation_goes_on_by_id_or_by_its_own_output() -> None:
    """Both ways give the same prompt."""
    async with sdk() as (client, server):
        first = await client.responses.create(model=BASE, input="hi")
        await client.responses.create(model=BASE, input="on", previous_response_id=first.id)
        history: Any = [{"role": "user", "content": "hi"}, *first.output]
        await client.responses.create(
            model=BASE, input=[*history, {"role": "user", "content": "on"}]
        )
    by_id, by_output = [row.prompt for row in server.engine.submitted[1:]]
    assert by_id == by_output


async def test_kept_responses_can_be_listed_cancelled_and_deleted() -> None:
    """The rest of the resource, with the SDK's own paging."""
    async with sdk() as (client, server):
        items: Any = [{"role": "user", "content": str(number)} for number in range(5)]
        kept = await client.responses.create(model=BASE, input=items)
        page = client.responses.input_items.list(kept.id, limit=2, order="asc")
        texts = [item.content[0].text async for item in page if item.type == "message"]  # type: ignore[union-attr]
        assert texts == ["0", "1", "2", "3", "4"]
        await client.responses.delete(kept.id)
        with pytest.raises(openai.NotFoundError) as gone:
            await client.responses.retrieve(kept.id)
        server.engine.hold()
        running = await client.responses.create(model=BASE, input="hi", background=True)
        cancelled = await client.responses.cancel(running.id)
    assert gone.value.code == "response_not_found"
    assert (running.status, cancelled.status) == ("in_progress", "cancelled")


async def test_a_background_response_is_polled() -> None:
    """As the guides show it."""
    async with sdk() as (client, _):
        answer = await client.responses.create(model=PIRATE, input="hi", background=True)
        while answer.status == "in_progress":
            await asyncio.sleep(0)
            answer = await client.responses.retrieve(answer.id)
    assert (answer.status, answer.output_text) == ("completed", "hello")


async def test_the_synchronous_client_works_as_well() -> None:
    """From a thread, as scripts use it: whole and streamed."""
    async with sdk() as (_, server):

        def use() -> tuple[str, str]:
            url = f"http://127.0.0.1:{server.port}/v1"
            with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
                whole = client.responses.create(model=BASE, input="hi")
                with client.responses.stream(model=BASE, input="hi") as stream:
                    for _ in stream:
                        pass
                    final = stream.get_final_response()
            return whole.output_text, final.output_text

        assert await anyio.to_thread.run_sync(use) == ("hello", "hello")


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdk_s_own_exceptions(stream: bool) -> None:
    """Programs catch these classes and read these fields, for streams too."""
    async with sdk() as (client, server):
        create: Any = client.responses.create
        with pytest.raises(openai.NotFoundError) as unknown:
            await create(model="other", input="hi", stream=stream)
        with pytest.raises(openai.BadRequestError) as unsupported:
            await create(model=BASE, input="hi", stream=stream, conversation="c")
        with pytest.raises(openai.BadRequestError) as expired:
            await create(model=BASE, input="hi", stream=stream, previous_response_id="resp_x")
        server.engine.poison()
        with pytest.raises(openai.InternalServerError):
            await create(model=BASE, input="hi", stream=stream)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert unsupported.value.param == "conversation"
    assert expired.value.code == "previous_response_not_found"
