"""The events of a stage as a stream that ends with the stage and can be taken up anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio.to_thread

from adapters.lineage import StageEvent
from adapters.states import StageState
from server.api.admin.ports import Stages
from server.api.admin.wire import event_row
from server.api.wire import encode
from server.errors import to_body

log = logging.getLogger(__name__)

BATCH = 500
"""Events that one look at the store gives."""

_RETRY_MS = 1000
"""How long a client should wait before it connects again."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the store found; ``ended`` means that nothing will follow."""

    events: Sequence[StageEvent]
    ended: bool


def look(stages: Stages, stage: str, after: int) -> Look:
    """The next events after ``after``; blocks on the store. Raises StageNotFound."""
    # First the state: were it read second, an event could come in between and never be seen.
    final = stages.get(stage).state.is_final
    events = stages.events(stage, after=after, limit=BATCH)
    done = any(map(_is_last, events)) or (final and len(events) < BATCH)
    return Look(events, ended=done)


async def event_frames(
    stages: Stages, stage: str, *, after: int, closing: asyncio.Event, request_id: str
) -> AsyncIterator[bytes]:
    """Server-sent events with ids above ``after``, up to the stage's end or ``closing``.

    A failure is one event ``error`` with the body of an error response; then the stream ends.
    """
    yield b"retry: %d\n\n" % _RETRY_MS
    with _woken_by(stages, stage) as woken:
        while not closing.is_set():
            woken.clear()
            try:
                found = await anyio.to_thread.run_sync(look, stages, stage, after)
            except Exception as error:  # noqa: BLE001 - the status is sent: only the stream can tell
                yield _failure(error, request_id)
                return
            for event in found.events:
                yield _frame(event)
                after = event.id
            if found.ended:
                return
            if not found.events:
                await _first_of(woken, closing)


@contextmanager
def _woken_by(stages: Stages, stage: str) -> Iterator[asyncio.Event]:
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def notify(changed: str) -> None:
        if changed == stage:
            with contextlib.suppress(RuntimeError):  # the loop ended a moment before we let go
                loop.call_soon_threadsafe(woken.set)

    unsubscribe = stages.subscribe(notify)
    try:
        yield woken
    finally:
        unsubscribe()


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


def _is_last(event: StageEvent) -> bool:
    return event.kind == "state" and StageState(event.data["state"]).is_final


def _frame(event: StageEvent) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        event.id,
        event.kind.encode(),
        encode(event_row(event)),
    )


def _failure(error: Exception, request_id: str) -> bytes:
    body = to_body(error, request_id=request_id)
    if body.status == 500:
        log.error("%s: a stream of events failed", request_id, exc_info=error)
    return b"event: error\ndata: %s\n\n" % encode({**body.content})
