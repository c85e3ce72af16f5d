"""The device thread runs pieces of other work between the steps of serving."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from adapters.errors import DeviceGone, NonFinite
from server.core.messages import Failed, Finished, Generate, Sampling, Token
from server.engine.engine import MlxEngine
from server.engine.lending import Lender, Piece
from tests.conformance.mlx_harness import MlxHarness


@pytest.fixture
def engine(tiny_model: Path, tiny_adapters: dict[str, Path]) -> MlxEngine:
    """A real engine, not started."""
    made = MlxHarness(tiny_model, tiny_adapters["a4"]).engine(
        queue_limit=8, max_rows=4, event_queue_limit=64
    )
    assert isinstance(made, MlxEngine)
    return made


def row(name: str, tokens: int) -> Generate:
    """A greedy row of the bare base."""
    return Generate(name, (1, 2, 3), tokens, Sampling(seed=0, temperature=0.0), frozenset())


async def text_of(engine: MlxEngine, request: Generate) -> list[int]:
    """The tokens of one row, which must end well."""
    events = [event async for event in engine.submit(request)]
    assert isinstance(events[-1], Finished)
    return [event.token for event in events if isinstance(event, Token)]


def test_a_piece_runs_on_the_device_thread_and_its_result_comes_back(engine: MlxEngine) -> None:
    """``run`` waits for the piece, which gets the served model."""

    async def scenario() -> tuple[str, int]:
        await engine.start()
        try:
            return await asyncio.to_thread(
                engine.device.run,
                lambda model: (threading.current_thread().name, len(model.layers)),
            )
        finally:
            await engine.stop(grace_s=0)

    thread, layers = asyncio.run(scenario())
    assert thread == "device"
    assert layers > 0


def test_pieces_and_rows_advance_together_and_the_rows_stay_what_they_were(
    engine: MlxEngine,
) -> None:
    """Every piece gets its turn while a row decodes, and the row's tokens do not change."""

    def product(_: Any) -> float:
        return mx.ones((8, 8)).sum().item()  # type: ignore[return-value]

    async def scenario() -> tuple[list[int], list[int], int]:
        await engine.start()
        try:
            alone = await text_of(engine, row("alone", 60))
            stop = threading.Event()
            pieces = 0

            def work() -> None:
                nonlocal pieces
                while not stop.is_set():
                    assert engine.device.run(product) == 64.0
                    pieces += 1

            worker = asyncio.create_task(asyncio.to_thread(work))
            beside = await text_of(engine, row("beside", 60))
            stop.set()
            await worker
            return alone, beside, pieces
        finally:
            await engine.stop(grace_s=0)

    alone, beside, pieces = asyncio.run(scenario())
    assert beside == alone
    assert pieces > 0
    assert engine.stats().lent_pieces == pieces


def test_a_refusal_of_a_piece_harms_nothing(engine: MlxEngine) -> None:
    """An AdapterError is the caller's; rows go on."""

    def diverge(_: Any) -> None:
        raise NonFinite("the loss is not finite")

    async def scenario() -> list[int]:
        await engine.start()
        try:
            with pytest.raises(NonFinite, match="not finite"):
                await asyncio.to_thread(engine.device.run, diverge)
            return await text_of(engine, row("after", 3))
        finally:
            await engine.stop(grace_s=0)

    assert len(asyncio.run(scenario())) == 3


def test_any_other_error_in_a_piece_poisons_the_engine(engine: MlxEngine) -> None:
    """After an MLX error nothing on the device can be believed."""

    def crash(_: Any) -> None:
        raise RuntimeError("[metal] out of memory")

    async def scenario() -> object:
        await engine.start()
        stream = engine.submit(row("running", 10_000))
        await anext(stream)
        with pytest.raises(DeviceGone, match="out of memory"):
            await asyncio.to_thread(engine.device.run, crash)
        last = [event async for event in stream][-1]
        with pytest.raises(DeviceGone):
            await asyncio.to_thread(engine.device.run, lambda _: None)
        await engine.stop(grace_s=0)
        return last

    assert isinstance(asyncio.run(scenario()), Failed)


def test_a_stopped_engine_lends_nothing(engine: MlxEngine) -> None:
    """Before the start and after the end there is no device to wait for."""
    with pytest.raises(DeviceGone):
        engine.device.run(lambda _: None)

    async def scenario() -> None:
        await engine.start()
        await engine.stop(grace_s=0)

    asyncio.run(scenario())
    with pytest.raises(DeviceGone):
        engine.device.run(lambda _: None)


def test_a_piece_that_still_waits_is_refused_when_the_device_ends() -> None:
    """Nobody waits for ever: what lies in the inbox gets an answer."""
    inbox: queue.SimpleQueue[Piece] = queue.SimpleQueue()
    lender = Lender(inbox.put)
    lender.open()
    refused: list[BaseException] = []

    def wait() -> None:
        try:
            lender.run(lambda _: None)
        except DeviceGone as error:
            refused.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    piece = inbox.get()
    inbox.put(piece)
    lender.close(inbox)
    thread.join(10)
    assert len(refused) == 1
