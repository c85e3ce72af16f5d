"""How the real process ends: asked to, killed, or with a broken device, each in mid-stream."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from server.cli import EXIT_FAILED
from server.supervise import EXIT_POISONED
from tests.acceptance.serving import serve_fragile
from tests.acceptance.serving.asking import QUESTIONS, asker, model_of
from tests.acceptance.serving.process import free_port, ready, started
from tests.server.api.serving import events_of, said

CHAINS = (None, "a4", "b8")
MANY = 900
"""Tokens, more than a stream gets before it is cut."""


async def in_mid_stream(
    ask: Callable[[str | None, Callable[[int], None]], Coroutine[Any, Any, object]],
    strike: Callable[[], None],
) -> list[object]:
    """Begin a stream for each of CHAINS, ``strike`` once all have tokens; what came of each."""
    begun = {chain: asyncio.Event() for chain in CHAINS}

    def hears(chain: str | None) -> Callable[[int], None]:
        return lambda tokens: begun[chain].set() if tokens >= 3 else None

    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(outcome(ask(chain, hears(chain)))) for chain in CHAINS]
        for event in begun.values():
            await event.wait()
        strike()
    return [stream.result() for stream in streams]


async def outcome(stream: Coroutine[Any, Any, object]) -> object:
    """What a stream gives or raises."""
    try:
        return await stream
    except (openai.APIError, httpx.TransportError) as error:
        return error


@pytest.mark.anyio
async def test_sigterm_in_mid_stream_ends_every_stream_well_and_then_the_process_with_0(
    tmp_path: Path, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """A final chunk that says why and ``[DONE]``; no thread aborts the process (FACTS 4, 11)."""
    options = ["--port", "0", "--no-supervise", "--shutdown-grace-s", "0"]
    with started(tmp_path, tiny_model, tiny_adapters, *options) as server:
        async with httpx.AsyncClient(base_url=server.serving(), timeout=30) as client:

            async def ask(chain: str | None, seen: Callable[[int], None]) -> str:
                body = {
                    "model": model_of(chain),
                    "messages": [{"role": "user", "content": QUESTIONS[0]}],
                    "max_tokens": MANY,
                    "logit_bias": {"2": -100},
                    "stream": True,
                }
                lines: list[str] = []
                async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                    async for line in stream.aiter_lines():
                        lines.append(line)
                        seen(len(lines) // 2)
                return "\n".join(lines)

            streams = await in_mid_stream(ask, lambda: server.signal(signal.SIGTERM))
        assert server.ended() == 0, server.log
    for stream in streams:
        events = events_of(str(stream))
        assert said(events)
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert events[-1]["chainlora"] == {"ended_by": "shutdown"}


@pytest.mark.anyio
async def test_a_killed_server_cuts_its_streams_and_is_there_again_on_the_same_port(
    tmp_path: Path, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """``kill -9`` of the serving child: nobody takes half an answer for a whole one."""
    port = free_port()
    with started(tmp_path, tiny_model, tiny_adapters, "--port", port) as server:
        url = server.serving()
        child = int(server.said(r"child_started pid=(\d+)")[1])
        async with asker(url, tiny_model, tiny_adapters) as client:
            cut = await in_mid_stream(
                lambda chain, seen: client.ask(
                    chain, QUESTIONS[0], count=MANY, endless=True, seen=seen
                ),
                lambda: os.kill(child, signal.SIGKILL),
            )
        assert all(isinstance(each, openai.APIError | httpx.TransportError) for each in cut), cut
        assert server.serving(times=2) == url
        async with asker(url, tiny_model, tiny_adapters) as client:
            client.assert_cold([("b8", QUESTIONS[0])], [await client.ask("b8", QUESTIONS[0])])
        assert server.stop() == 0, server.log


@pytest.mark.anyio
async def test_a_broken_device_gives_every_stream_its_error_and_is_replaced(
    tmp_path: Path,
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Typed errors, never ready until replaced, its own exit code, one restart (DESIGN 3)."""
    breaks = tmp_path / "breaks"
    monkeypatch.setenv(serve_fragile.WHERE, str(breaks))
    options = ["--port", free_port()]
    module = serve_fragile.__name__
    with started(tmp_path, tiny_model, tiny_adapters, *options, module=module) as server:
        url = server.serving()
        async with asker(url, tiny_model, tiny_adapters) as client:
            failed = await in_mid_stream(
                lambda chain, seen: client.ask(
                    chain, QUESTIONS[0], count=MANY, endless=True, seen=seen
                ),
                breaks.touch,
            )
        assert [getattr(each, "code", each) for each in failed] == ["engine_failed"] * len(CHAINS)
        while (status := ready(url)) is not None:
            assert status == httpx.codes.SERVICE_UNAVAILABLE
        server.said(f"exit code {EXIT_POISONED}")
        assert server.serving(times=2) == url
        assert ready(url) == httpx.codes.OK
        async with asker(url, tiny_model, tiny_adapters) as client:
            client.assert_cold([("b8", QUESTIONS[0])], [await client.ask("b8", QUESTIONS[0])])
        assert server.stop() == 0, server.log


def test_an_adapter_that_matches_no_module_keeps_the_server_from_starting(
    tmp_path: Path, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """FACTS 4, case 5: refused with the reason, never served as the base under another name."""
    good = read_adapter(tiny_adapters["a4"])
    foreign = {f"other.{name}": pair for name, pair in good.tensors.items()}
    write_adapter(tmp_path / "foreign", AdapterFiles(good.shape, foreign))
    adapters = {"foreign": tmp_path / "foreign"}
    with started(tmp_path, tiny_model, adapters, "--port", "0", "--no-supervise") as server:
        assert server.ended() == EXIT_FAILED
        assert server.said("chainlora: foreign does not fit this base: no module matches")
