"""How every implementation of the Engine port ends rows early, refuses them, stops and fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from server.core.errors import EngineFailed, InvalidRequest, QueueFull, ShuttingDown, SlowReader
from server.core.messages import Failed, Finished, FinishReason, Token
from tests.conformance.harness import (
    Harness,
    drain,
    eventually,
    row,
    rows_in,
    running,
    tokens,
)

pytestmark = pytest.mark.anyio


async def test_cancelling_a_waiting_row_ends_it_as_cancelled(harness: Harness) -> None:
    """A row need not run to be cancelled."""
    async with running(harness, max_rows=1) as engine:
        harness.hold()
        first = engine.submit(row(harness))
        waiting = row(harness, 1)
        events = engine.submit(waiting)
        engine.cancel(waiting.request_id)
        harness.release()
        (last,) = await drain(events)
        assert isinstance((await drain(first))[-1], Finished)
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens) == (FinishReason.CANCELLED, 0)


async def test_cancelling_a_running_row_ends_it_as_cancelled(harness: Harness) -> None:
    """Its tokens so far stay readable, then comes the one last event."""
    async with running(harness) as engine:
        request = row(harness, max_tokens=harness.context - 12)
        events = engine.submit(request)
        assert isinstance(await anext(events), Token)
        engine.cancel(request.request_id)
        last = (await drain(events))[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
    assert 1 <= last.completion_tokens < request.max_tokens


async def test_cancelling_is_idempotent_and_forgives_an_unknown_row(harness: Harness) -> None:
    """Disconnect, deadline and drain may each cancel the same row, or one that has just ended."""
    async with running(harness) as engine:
        engine.cancel("nobody")
        request = row(harness, max_tokens=harness.context - 12)
        events = engine.submit(request)
        engine.cancel(request.request_id)
        engine.cancel(request.request_id)
        ends = [event for event in await drain(events) if isinstance(event, Finished)]
        engine.cancel(request.request_id)
        assert [end.reason for end in ends] == [FinishReason.CANCELLED]
        assert len(await tokens(engine, row(harness, max_tokens=2))) == 2


@pytest.mark.parametrize("read", [0, 1])
async def test_closing_an_iterator_early_cancels_its_row(harness: Harness, read: int) -> None:
    """A reader that goes away must not leave its row running, even if it never read."""
    async with running(harness, max_rows=1) as engine:
        events = engine.submit(row(harness, max_tokens=harness.context - 12))
        for _ in range(read):
            await anext(events)
        await events.aclose()
        await eventually(lambda: rows_in(engine) == 0)
        assert engine.stats().generated_tokens < harness.context - 12
        assert [event async for event in events] == []


async def test_a_cancelled_reader_cancels_its_row(harness: Harness) -> None:
    """A task that is cancelled while it waits for an event leaves no row behind."""
    async with running(harness) as engine:
        harness.hold()
        events = engine.submit(row(harness, max_tokens=harness.context - 12))
        reader = asyncio.create_task(drain(events))
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        await events.aclose()
        harness.release()
        await eventually(lambda: rows_in(engine) == 0)


async def test_a_full_queue_refuses_at_once(harness: Harness) -> None:
    """The client gets 429 instead of a wait without end; the rows before it are not touched."""
    async with running(harness, queue_limit=3, max_rows=2) as engine:
        harness.hold()
        streams = [engine.submit(row(harness, number)) for number in range(3)]
        with pytest.raises(QueueFull):
            streams += [engine.submit(row(harness, number)) for number in range(3)]
        harness.release()
        for events in streams:
            assert isinstance((await drain(events))[-1], Finished)


async def test_a_row_that_can_never_fit_is_refused_at_once(harness: Harness) -> None:
    """Waiting would not make it fit."""
    async with running(harness) as engine:
        with pytest.raises(InvalidRequest):
            engine.submit(replace(row(harness), prompt=harness.prompt(0)[:1] * harness.context))


async def test_a_reader_that_is_too_slow_loses_its_row_alone(harness: Harness) -> None:
    """Its events must not pile up without bound, and its neighbour goes on."""
    async with running(harness, event_queue_limit=4) as engine:
        slow = engine.submit(row(harness, max_tokens=64))
        quick = await tokens(engine, row(harness, 1, max_tokens=64))
        await eventually(lambda: rows_in(engine) == 0)
        last = (await drain(slow))[-1]
    assert len(quick) == 64
    assert isinstance(last, Failed)
    assert isinstance(last.error, SlowReader)


async def test_a_reader_that_got_no_turn_to_read_is_not_slow(harness: Harness) -> None:
    """Where the event loop is busy, tokens come faster than any reader can be run."""
    async with running(harness, event_queue_limit=4) as engine:
        harness.hold()
        reader = asyncio.create_task(tokens(engine, row(harness, max_tokens=64)))
        await asyncio.sleep(0)
        harness.release()
        harness.run_ahead(40)
        assert len(await reader) == 64


async def test_stopping_lets_running_rows_finish_within_the_grace(harness: Harness) -> None:
    """A deployment does not cut the requests in flight."""
    async with running(harness) as engine:
        events = engine.submit(row(harness, max_tokens=8))
        await engine.stop(grace_s=60)
        last = (await drain(events))[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens) == (FinishReason.LENGTH, 8)


async def test_stopping_without_grace_cancels_what_runs_and_what_waits(harness: Harness) -> None:
    """Every stream still ends with its one last event."""
    async with running(harness, max_rows=1) as engine:
        harness.hold()
        long = harness.context - 12
        streams = [engine.submit(row(harness, number, max_tokens=long)) for number in range(2)]
        stopping = asyncio.create_task(engine.stop(grace_s=0))
        await asyncio.sleep(0)
        harness.release()
        await stopping
        for events in streams:
            last = (await drain(events))[-1]
            assert isinstance(last, Finished)
            assert last.reason is FinishReason.CANCELLED


async def test_a_stopped_engine_takes_no_row(harness: Harness) -> None:
    """The client is told to try another time, not left waiting."""
    async with running(harness) as engine:
        await engine.stop(grace_s=0)
        with pytest.raises(ShuttingDown):
            engine.submit(row(harness))
        assert engine.stats().state == "stopped"


async def test_a_failing_device_ends_every_stream_and_refuses_every_later_row(
    harness: Harness,
) -> None:
    """A poisoned device may give wrong numbers: nothing runs on it again."""
    async with running(harness, max_rows=1) as engine:
        harness.hold()
        streams = [engine.submit(row(harness, number)) for number in range(3)]
        harness.break_device()
        harness.release()
        for events in streams:
            failures = [event for event in await drain(events) if not isinstance(event, Token)]
            (failed,) = failures
            assert isinstance(failed, Failed)
            assert isinstance(failed.error, EngineFailed)
        with pytest.raises(EngineFailed):
            engine.submit(row(harness))
        assert engine.stats().state == "failed"
