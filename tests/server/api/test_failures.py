"""What goes wrong, before the first byte and after it: the right status, or one error event."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.core.errors import AdapterUnavailable
from tests.fake_tokenizer import FakeTokenizer
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import (
    BASE,
    PIRATE,
    REVISION,
    USER,
    Served,
    chat,
    error_of,
    events_of,
    serving,
)

pytestmark = pytest.mark.anyio
STREAM_OR_NOT = pytest.mark.parametrize("stream", [False, True])


def streaming(server: Served, **fields: Any) -> AbstractAsyncContextManager[httpx.Response]:
    """A chat stream that has begun and is not read yet."""
    return server.http.stream("POST", "/v1/chat/completions", json=chat(stream=True, **fields))


@STREAM_OR_NOT
async def test_a_full_queue_is_a_429_that_says_when_to_come_back(stream: bool) -> None:
    """At once, also for a stream."""
    async with serving(FakeEngine(queue_limit=1)) as server:
        server.engine.hold()
        waiting = asyncio.create_task(server.chat(max_tokens=1))
        await server.engine.until(lambda: server.engine.stats().waiting == 1)
        response = await server.chat(stream=stream)
        server.engine.release()
        assert (await waiting).status_code == 200
        assert server.pinned() == {}
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert error_of(response)["code"] == "queue_full"


@STREAM_OR_NOT
async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(stream: bool) -> None:
    """Dropping it in silence would leave the client waiting."""
    async with serving() as server:
        message = {"role": "user", "content": "x" * 600}
        prompt = await server.chat(messages=[message], stream=stream)
        completion = await server.chat(max_tokens=500, stream=stream)
        assert server.engine.submitted == []
    for response, needed in ((prompt, "619 in the prompt"), (completion, "500 for the completion")):
        assert response.status_code == 400
        error = error_of(response)
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert "512 tokens" in error["message"]
        assert needed in error["message"]


async def test_a_biased_token_must_exist() -> None:
    """The engine would write beyond its logits."""
    async with serving() as server:
        response = await server.chat(logit_bias={"258": 1})
    assert (response.status_code, error_of(response)["param"]) == (400, "logit_bias")


async def test_a_conversation_that_the_template_refuses_is_a_400() -> None:
    """The template's own words, with the field."""
    async with serving() as server:
        response = await server.chat(messages=[{"role": "assistant", "content": "x"}])
    assert (response.status_code, error_of(response)["param"]) == (400, "messages")


@STREAM_OR_NOT
async def test_a_row_that_fails_before_its_first_token_has_its_own_status(stream: bool) -> None:
    """A stream sends nothing before the first event, so that it can still say 503."""
    engine = FakeEngine()
    engine.refusals[REVISION] = AdapterUnavailable("the adapter's file is gone", param="model")
    async with serving(engine) as server:
        response = await server.chat(model=PIRATE, stream=stream)
        await server.idle()
        assert server.pinned() == {}
    assert response.status_code == 503
    assert error_of(response)["message"] == "the adapter's file is gone"


@STREAM_OR_NOT
async def test_a_poisoned_device_is_a_503(stream: bool) -> None:
    """The process is about to be replaced; the client may try again."""
    async with serving() as server:
        server.engine.poison()
        response = await server.chat(stream=stream)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert error_of(response)["code"] == "engine_failed"


async def test_a_stream_that_fails_midway_ends_with_one_error_and_done() -> None:
    """The status is sent; the stream itself must tell, and must end well-formed."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step(2)
        async with streaming(server, model=PIRATE) as response:
            await server.engine.until(lambda: server.engine.stats().steps == 2)
            server.engine.poison()
            await response.aread()
        *chunks, last = events_of(response.text)
        await server.idle()
        assert server.pinned() == {}
    assert all("error" not in chunk for chunk in chunks)
    assert last["error"]["code"] == "engine_failed"


async def test_a_whole_answer_that_fails_midway_is_an_error_and_nothing_else() -> None:
    """Half a text is no answer."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step(2)
        asked = asyncio.create_task(server.chat())
        await server.engine.until(lambda: server.engine.stats().steps == 2)
        server.engine.poison()
        response = await asked
    assert (response.status_code, error_of(response)["code"]) == (503, "engine_failed")


@STREAM_OR_NOT
async def test_a_request_that_takes_too_long_is_ended(stream: bool) -> None:
    """Its row as well; and the SDK is told not to repeat it."""
    async with serving(request_timeout_s=0.05) as server:
        server.engine.hold()
        response = await server.chat(model=PIRATE, stream=stream)
        await server.idle()
        assert server.engine.stats().waiting == 0
        assert server.pinned() == {}
    assert response.status_code == 408
    assert response.headers["x-should-retry"] == "false"
    assert "0.05 s" in error_of(response)["message"]


async def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    """The same limit after the first byte."""
    async with serving(request_timeout_s=0.1) as server:
        server.engine.hold()
        server.engine.step()
        response = await server.chat(stream=True)
        await server.idle()
        assert server.engine.stats().decoding == 0
    assert events_of(response.text)[-1]["error"]["code"] == "deadline_exceeded"


async def test_a_client_that_leaves_a_stream_ends_its_row() -> None:
    """Nobody reads it; the device has better things to do."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        async with streaming(server, model=PIRATE) as response:
            await anext(response.aiter_lines())
        await server.engine.until(lambda: server.engine.stats().decoding == 0)
        await server.idle()
        assert server.pinned() == {}


@STREAM_OR_NOT
async def test_a_client_that_leaves_before_the_first_byte_ends_its_row(stream: bool) -> None:
    """While the row waits for the device, and while a whole answer is being made."""
    async with serving() as server:
        server.engine.hold()
        asked = asyncio.create_task(server.chat(model=PIRATE, stream=stream))
        await server.engine.until(lambda: server.engine.stats().waiting == 1)
        asked.cancel()
        await server.engine.until(lambda: server.engine.stats().waiting == 0)
        await asyncio.wait([asked])
        await server.idle()
        assert server.pinned() == {}


@STREAM_OR_NOT
@pytest.mark.parametrize("choices", [1, 2, 8])
async def test_tokens_that_come_while_the_event_loop_is_busy_end_no_request(
    choices: int, stream: bool
) -> None:
    """The client is as quick as can be: it was the server that gave it no turn."""
    async with serving(FakeEngine(event_queue_limit=1, max_rows=8)) as server:
        server.engine.hold()
        asked = asyncio.create_task(server.chat(n=choices, max_tokens=200, stream=stream))
        await server.engine.until(lambda: server.engine.stats().waiting == choices)
        for _ in range(2):
            for _ in range(90):
                server.engine.step_now()
            await asyncio.sleep(0)
        server.engine.release()
        response = await asked
    assert response.status_code == 200
    assert response.text.count('"finish_reason":"length"') == choices


async def test_a_slow_reader_is_cut_and_its_row_ended() -> None:
    """A parked generator would keep its row and its revision for ever."""
    async with serving(send_timeout_s=0.05) as server:
        server.engine.hold()
        server.engine.step()
        async with streaming(server, max_tokens=400, model=PIRATE) as response:
            (connection,) = server.server.server_state.connections
            assert isinstance(connection, H11Protocol)
            connection.pause_writing()  # as its transport does when the client does not read
            server.engine.release()
            await server.idle()
            assert server.engine.stats().decoding == 0
            assert server.pinned() == {}
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()


@STREAM_OR_NOT
async def test_a_defect_of_ours_says_nothing_but_where_to_look(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the rest, under the request's id."""
    engine = FakeEngine()

    def broken(_: object) -> Any:
        raise RuntimeError("/secret/path")

    engine.script = broken
    async with serving(engine) as server:
        with caplog.at_level(logging.ERROR, logger="server"):
            response = await server.http.post(
                "/v1/chat/completions",
                json={"model": BASE, "messages": [USER], "stream": stream},
                headers={"x-request-id": "trace-7"},
            )
    assert response.status_code == 500
    error = error_of(response)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in response.text
    assert "trace-7" in error["message"]
    assert "trace-7" in caplog.text
    assert "/secret/path" in caplog.text


async def test_a_defect_in_a_running_stream_leaks_nothing_either() -> None:
    """The same sentence as an event. (No byte has the number -1, so decoding raises.)"""
    async with serving(FakeEngine(script=lambda _: [ord("a"), -1])) as server:
        *_, last = events_of((await server.chat(stream=True)).text)
        await server.idle()
    assert last["error"]["code"] == "internal_error"
    assert "range" not in last["error"]["message"]


async def test_a_device_that_fails_after_the_stop_string_spoils_no_answer() -> None:
    """The text was complete; only the cached tokens are unknown."""

    class Fragile(FakeEngine):
        def cancel(self, request_id: str) -> None:
            self.poison()

    engine = Fragile(script=saying("one two"))
    engine.hold()
    engine.step(4)
    async with serving(engine) as server:
        response = await server.chat(stop=" ")
    assert response.json()["choices"][0]["message"]["content"] == "one"


async def test_a_prompt_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokenizers make nothing of some texts; the engine has nothing to start from."""
    monkeypatch.setattr(FakeTokenizer, "encode", lambda *_: [])
    async with serving() as server:
        response = await server.complete()
    assert (response.status_code, error_of(response)["param"]) == (400, "prompt")
