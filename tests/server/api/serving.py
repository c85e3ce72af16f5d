"""The whole HTTP side on a real socket, in the test's own event loop, over a fake engine."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from server.app import Application, HttpServer, Loaded, build
from server.core.ports import Model
from server.settings import Settings
from tests.fake_tokenizer import FakeTokenizer
from tests.fakes import FakeEngine
from tests.static_catalog import NamedAdapter, StaticCatalog

BASE = "org/tiny:v1"
PIRATE = f"{BASE}:pirate"
REVISION = "sha256-pirate"
USER = {"role": "user", "content": "hi"}


def load_fakes(engine: FakeEngine, tokenizer: FakeTokenizer | None = None) -> Any:
    """A loader for ``server.app.build`` that gives ``engine`` and ``tokenizer``."""

    def load(_: Settings) -> Loaded:
        return Loaded(
            engine=engine,
            tokenizer=tokenizer or FakeTokenizer(),
            catalog=StaticCatalog(
                Model(BASE, created=7), [NamedAdapter("pirate", REVISION, 8, root="pirate")]
            ),
            fingerprint="fp_test",
            facts=lambda: {"device": "fake"},
        )

    return load


def settings(**changes: Any) -> Settings:
    """The settings of a server with one adapter and no grace at its end."""
    values: dict[str, Any] = {
        "served_name": BASE,
        "adapters": (("pirate", Path("/adapters/pirate")),),
        "shutdown_grace_s": 0.0,
        **changes,
    }
    return Settings(**values)


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: a client for it, and what lies behind it."""

    http: httpx.AsyncClient
    engine: FakeEngine
    application: Application
    server: HttpServer
    port: int

    async def chat(self, **fields: Any) -> httpx.Response:
        """A chat completion; fields replace or extend the smallest request."""
        return await self.http.post("/v1/chat/completions", json=chat(**fields))

    async def complete(self, **fields: Any) -> httpx.Response:
        """A completion; fields replace or extend the smallest request."""
        body = {"model": BASE, "prompt": "hi", **fields}
        return await self.http.post("/v1/completions", json=body)

    def pinned(self) -> dict[str, int]:
        """The catalog's pins, which must be gone when no request runs."""
        catalog = self.application.loaded.catalog
        assert isinstance(catalog, StaticCatalog)
        return catalog.pinned()

    async def idle(self) -> None:
        """Wait until no request is being worked on; a response may arrive a moment before."""
        while self.server.server_state.tasks:
            await asyncio.wait(set(self.server.server_state.tasks))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of its own, for what no HTTP client would send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Connection:
    """Bytes to and from the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send ``data`` and keep the connection open."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of the next response."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = json.loads(await self.reader.readexactly(length))
        return int(head.split()[1]), body

    async def closed(self) -> bool:
        """Wait for the server to close; whether it said nothing more."""
        return await self.reader.read() == b""


def chat(**fields: Any) -> dict[str, Any]:
    """The smallest chat request, changed."""
    return {"model": BASE, "messages": [USER], **fields}


@asynccontextmanager
async def serving(engine: FakeEngine | None = None, **changes: Any) -> AsyncIterator[Served]:
    """A server that accepts connections until the context ends; a hang fails the test."""
    async with serving_model(engine or FakeEngine(), FakeTokenizer(), **changes) as served:
        yield served


@asynccontextmanager
async def serving_model(
    engine: FakeEngine, tokenizer: FakeTokenizer, **changes: Any
) -> AsyncIterator[Served]:
    """The same for a model with a tokenizer of its own.

    uvicorn's own main loop, which looks around ten times a second, is left out.
    """
    application = build(settings(**changes), load_fakes(engine, tokenizer))
    server = HttpServer(application)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with asyncio.timeout(30):
        await application.start()
        await server.startup([listener])
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=25) as http:
                yield Served(http, engine, application, server, port)
        finally:
            for one in server.servers:
                one.close()
            await application.stop()
            for connection in list(server.server_state.connections):
                connection.transport.close()
            if server.server_state.tasks:
                await asyncio.wait(set(server.server_state.tasks))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object of a response that has nothing else."""
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    error: dict[str, Any] = body["error"]
    return error


def events_of(text: str) -> list[dict[str, Any]]:
    """The JSON events of a stream, which must be closed by ``[DONE]``."""
    lines = [line for line in text.splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def said(events: list[dict[str, Any]]) -> str:
    """The text of a chat stream."""
    choices: list[Mapping[str, Any]] = [c for event in events for c in event.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
