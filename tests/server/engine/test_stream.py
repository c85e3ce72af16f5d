"""When a reader counts as slow: only by its own doing."""

from __future__ import annotations

import asyncio

import pytest

from server.core.errors import SlowReader
from server.core.messages import Event, Failed, Finished, FinishReason, Token
from server.engine.stream import RowStream

pytestmark = pytest.mark.anyio

LIMIT = 4
END = Finished(FinishReason.LENGTH, 1, 100, 0)


class Reading:
    """A stream, how often its row was abandoned, and what a task has read of it."""

    def __init__(self) -> None:
        self.abandoned = 0
        self.read: list[Event] = []
        self.stream = RowStream(limit=LIMIT, abandon=self._abandon)

    def _abandon(self) -> None:
        self.abandoned += 1

    def push(self, count: int) -> None:
        """Tokens, as they come while the event loop is busy."""
        for token in range(count):
            self.stream.push(Token(token))

    async def all(self, pause: asyncio.Event | None = None, turns: int = 0) -> None:
        """Read to the end; after the first event wait for ``pause``, after each some turns."""
        async for event in self.stream:
            self.read.append(event)
            if pause is not None:
                await pause.wait()
            for _ in range(turns):
                await asyncio.sleep(0)

    @property
    def failure(self) -> Exception | None:
        """What the row ended with."""
        last = self.read[-1]
        return last.error if isinstance(last, Failed) else None


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turns", [0, 1, 9])
async def test_a_burst_that_came_while_the_loop_was_busy_is_read_whole(turns: int) -> None:
    """Also where each event takes some turns of the loop on its way to the client."""
    reading = Reading()
    reader = asyncio.create_task(reading.all(turns=turns))
    for _ in range(3):
        await _turns(2)
        reading.push(100)
    reading.stream.push(END)
    await reader
    assert (len(reading.read), reading.read[-1], reading.abandoned) == (301, END, 0)


async def test_a_reader_that_has_not_begun_is_waited_for() -> None:
    """A response needs some turns of the loop from its rows' start to its first byte."""
    reading = Reading()
    reading.push(100)
    await _turns(10)
    reader = asyncio.create_task(reading.all())
    await _turns(2)
    reading.stream.push(END)
    await reader
    assert len(reading.read) == 101


async def test_a_reader_that_waits_for_its_client_loses_the_row() -> None:
    """What it would read must not pile up; it ends with what came, then the reason."""
    reading, client = Reading(), asyncio.Event()
    reader = asyncio.create_task(reading.all(pause=client))
    while not reading.abandoned:
        reading.push(1)
        await asyncio.sleep(0)
        assert len(reading.read) <= 1
    reading.push(1)
    client.set()
    await reader
    assert isinstance(reading.failure, SlowReader)
    assert reading.abandoned == 1
    assert LIMIT < len(reading.read) < LIMIT + 50


async def test_as_many_events_as_the_limit_allows_wait_for_ever() -> None:
    """A client may pause as long as little is left unread."""
    reading, client = Reading(), asyncio.Event()
    reader = asyncio.create_task(reading.all(pause=client))
    await _turns(2)
    reading.push(1 + LIMIT)
    await _turns(200)
    assert reading.abandoned == 0
    client.set()
    reading.stream.push(END)
    await reader
    assert reading.failure is None


async def test_a_row_that_has_ended_is_nobodys_burden() -> None:
    """However much of it is left to read: nothing more comes."""
    reading, client = Reading(), asyncio.Event()
    reader = asyncio.create_task(reading.all(pause=client))
    await _turns(2)
    reading.push(100)
    reading.stream.push(END)
    await _turns(200)
    client.set()
    await reader
    assert (reading.failure, len(reading.read), reading.abandoned) == (None, 101, 0)
