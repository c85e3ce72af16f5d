"""The HTTP side over a fake engine, on a real socket, in a thread: real HTTP without a model.

For tests of what speaks to a server as a client does, such as the chat and the benchmark.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from fastapi import FastAPI

from server.api.application import create_api
from server.api.parts import HttpLimits, Parts
from server.core.ports import Model
from tests.fake_tokenizer import FakeTokenizer
from tests.fakes import FakeEngine, Script, saying
from tests.static_catalog import NamedAdapter, StaticCatalog

BASE = "tiny"
HELLO = saying("hello")
LIMITS = HttpLimits(
    max_body_bytes=2**20,
    body_timeout_s=10.0,
    request_timeout_s=60.0,
    send_timeout_s=10.0,
    shutdown_grace_s=0.0,
)


@dataclass(frozen=True, slots=True)
class LiveServer:
    """Where it listens, and the engine behind it."""

    url: str
    engine: FakeEngine
    loop: asyncio.AbstractEventLoop
    api: FastAPI

    def do(self, act: Callable[[], object]) -> None:
        """Run ``act`` on the server's event loop, where the engine lives, and wait for it."""

        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the engine does; TimeoutError after 20 s."""

        async def wait() -> None:
            await self.engine.until(holds)

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result(20)


@contextmanager
def live_server(
    script: Script = HELLO, *, adapters: tuple[str, ...] = ("pirate",), **parts: Any
) -> Iterator[LiveServer]:
    """Serve ``tiny`` and ``tiny:pirate`` until the context ends; every row follows ``script``.

    ``parts`` are further fields of ``Parts``, such as ``stages``.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio does it only where it knows the protocol; else an answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    engine = FakeEngine(script=script, max_rows=32, queue_limit=64, context=4096)
    api = create_api(replace(_parts(engine, adapters), **parts))
    config = uvicorn.Config(api, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    started: Future[asyncio.AbstractEventLoop] = Future()

    async def serve() -> None:
        await engine.start()
        # The socket listens already: a request that comes before uvicorn runs waits for it.
        started.set_result(asyncio.get_running_loop())
        await server.serve(sockets=[listener])
        await engine.stop(grace_s=0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield LiveServer(url, engine, started.result(20), api)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def _parts(engine: FakeEngine, adapters: tuple[str, ...]) -> Parts:
    ids = itertools.count()
    heads = [NamedAdapter(name, f"rev-{name}", 1) for name in adapters]
    return Parts(
        engine=engine,
        catalog=StaticCatalog(Model(BASE, 1), heads),
        tokenizer=FakeTokenizer(max_context=4096),
        limits=LIMITS,
        fingerprint="fp_test",
        clock=lambda: 1.0,
        new_id=lambda: f"{next(ids):032x}",
        draw_seed=lambda: 7,
    )
