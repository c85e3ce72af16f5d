"""The composition root: what is wired, and how a serving process ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import HttpServer, Load, Loaded, build, serve
from server.core.errors import EngineFailed
from server.settings import Settings
from server.supervise import EXIT_POISONED
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import (
    BASE,
    PIRATE,
    chat,
    error_of,
    events_of,
    load_fakes,
    said,
    settings,
)

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def running(
    engine: FakeEngine, load: Load | None = None, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, HttpServer, asyncio.Task[None]]]:
    """uvicorn's own main loop around the application, until it is told to exit."""
    application = build(settings(**changes), load or load_fakes(engine))
    server = HttpServer(application)
    listener = socket.create_server(("127.0.0.1", 0))
    async with asyncio.timeout(30):
        await application.start()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=25) as client:
                yield client, server, serving
        finally:
            engine.release()
            server.should_exit = True
            await serving


@pytest.mark.anyio
async def test_the_store_is_closed_after_the_last_request() -> None:
    """One that was still being worked on gets its answer, not an error of a closed database."""
    engine = FakeEngine()
    order: list[str] = []

    def load(asked: Settings) -> Loaded:
        loaded: Loaded = load_fakes(engine)(asked)
        return replace(loaded, close=lambda: order.append("closed"))

    async with running(engine, load) as (client, server, serving):

        async def slow() -> str:
            server.should_exit = True
            while engine.stats().state != "stopped":
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            order.append("answered")
            return "kept"

        server.config.app.add_api_route("/slow", slow)  # type: ignore[union-attr]
        assert (await client.get("/slow")).json() == "kept"
        await serving
    assert order == ["answered", "closed"]


@pytest.mark.anyio
async def test_streams_in_flight_end_well_formed_on_shutdown() -> None:
    """What was generated stays; the last chunk says that the text is incomplete, and why."""
    engine = FakeEngine()
    engine.hold()
    engine.step(2)
    async with running(engine) as (client, server, serving):
        body = chat(stream=True, model=PIRATE, stream_options={"include_usage": True})
        async with client.stream("POST", CHAT, json=body) as response:
            await engine.until(lambda: engine.stats().steps == 2)
            server.should_exit = True
            await response.aread()
        await serving
    *_, final, usage = events_of(response.text)
    assert len(said(events_of(response.text))) == 2
    assert final["choices"][0]["finish_reason"] == "length"
    assert final["chainlora"] == {"ended_by": "shutdown"}
    assert usage["usage"]["completion_tokens"] == 2
    assert engine.stats().state == "stopped"
    assert not server.hung


@pytest.mark.anyio
async def test_requests_in_flight_finish_within_the_grace() -> None:
    """A deployment loses no answer; new requests meanwhile find nobody."""
    engine = FakeEngine(script=saying("hello"))
    engine.hold()
    async with running(engine, shutdown_grace_s=25.0) as (client, server, serving):
        asked = [
            asyncio.create_task(client.post(CHAT, json=chat(stream=stream)))
            for stream in (False, True)
        ]
        await engine.until(lambda: engine.stats().waiting == 2)
        server.should_exit = True
        while engine.stats().state == "ready":
            await asyncio.sleep(0.01)
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(base_url=client.base_url) as other:
                await other.get("/health/live")
        engine.release()
        whole, stream = await asyncio.gather(*asked)
        await serving
    assert whole.json()["choices"][0]["message"]["content"] == "hello"
    assert said(events_of(stream.text)) == "hello"
    assert events_of(stream.text)[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.anyio
async def test_a_whole_answer_that_a_shutdown_cuts_is_a_503_to_be_repeated() -> None:
    """Half a text with status 200 would be taken for the whole."""
    engine = FakeEngine()
    engine.hold()
    async with running(engine) as (client, server, _):
        asked = asyncio.create_task(client.post(CHAT, json=chat()))
        await engine.until(lambda: engine.stats().waiting == 1)
        server.should_exit = True
        response = await asked
    assert (response.status_code, error_of(response)["code"]) == (503, "shutting_down")
    assert response.headers["retry-after"] == "5"


@pytest.mark.anyio
async def test_a_failed_device_ends_the_server_by_itself() -> None:
    """Nobody has to notice; every stream has had its error before."""
    engine = FakeEngine()
    engine.hold()
    engine.step()
    async with running(engine) as (client, server, serving):
        async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            engine.poison()
            await response.aread()
        await serving
        assert server.should_exit
    assert events_of(response.text)[-1]["error"]["code"] == "engine_failed"


def test_a_device_that_cannot_start_is_an_error_for_the_command_line() -> None:
    """Restarting would not help; the reason must be read."""
    with pytest.raises(EngineFailed, match="cannot start"):
        serve(settings(port=0), load_fakes(FakeEngine(fails_to_start=True)))


def test_a_port_in_use_is_told_before_the_model_is_loaded() -> None:
    """Loading may take minutes."""
    loaded: list[Settings] = []

    def load(settings: Settings) -> Loaded:
        loaded.append(settings)
        raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1 port {port}.*--port"):
            serve(settings(port=port), load)
    assert loaded == []


@contextmanager
def process(mode: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving process of its own, and its address."""
    command = [sys.executable, "-m", "tests.server.serve_fake", mode]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                _, found, url = line.partition(f"serving {BASE} at ")
                if found:
                    yield child, url.strip().removesuffix("/v1")
                    break
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_stream_ends_the_stream_and_then_the_process_with_0(
    number: signal.Signals,
) -> None:
    """sse-starlette and uvicorn would cut the stream, and die of the signal once more."""
    with process("held") as (child, url), httpx.Client(base_url=url, timeout=25) as client:
        with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            child.send_signal(number)
            response.read()
        assert child.wait(25) == 0
    events = events_of(response.text)
    assert events[-1]["chainlora"] == {"ended_by": "shutdown"}


def test_a_failed_device_ends_the_process_with_its_own_code() -> None:
    """The supervisor restarts on this code alone."""
    with process("fail") as (child, url), httpx.Client(base_url=url, timeout=25) as client:
        response = client.post(CHAT, json=chat(stream=True))
        assert child.wait(25) == EXIT_POISONED
    assert events_of(response.text)[-1]["error"]["code"] == "engine_failed"


@pytest.mark.anyio
async def test_a_device_that_does_not_stop_does_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step that never returns cannot be interrupted; the process ends with the failure's code."""

    class Stuck(FakeEngine):
        async def stop(self, *, grace_s: float) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("server.app._FAREWELL_S", 0.05)
    async with running(Stuck()) as (_, server, serving):
        server.should_exit = True
        await serving
    assert server.hung
