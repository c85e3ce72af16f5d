"""A row's events on their way to one reader, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from server.core.errors import SlowReader
from server.core.messages import Event, Failed, Finished

_TURNS = 32
"""Turns of the event loop after which every reader that could run has read: between two events of
a row, those that several rows and a response pass them through need fewer than ten."""


class RowStream:
    """The events of one row, in order; event loop only.

    A reader that leaves more than ``limit`` events unread and takes none while the event loop turns
    waits for its client: its row ends with Failed(SlowReader). One that the event loop did not run,
    because it was busy, is not slow, however many events came meanwhile. Closing the stream before
    its last event abandons the row.
    """

    def __init__(self, *, limit: int, abandon: Callable[[], None]) -> None:
        self._limit = limit
        self._abandon = abandon
        self._unread: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._closed = False
        self._watched = False
        self._idle_turns = 0

    @property
    def ended(self) -> bool:
        """Whether the last event has arrived."""
        return self._ended

    def push(self, event: Event) -> None:
        """Add an event; nothing follows the last one."""
        if self._ended:
            return
        self._ended = isinstance(event, Finished | Failed)
        self._unread.append(event)
        self._arrived.set()
        if len(self._unread) > self._limit and not self._watched:
            self._watched, self._idle_turns = True, 0
            asyncio.get_running_loop().call_soon(self._watch)

    def __aiter__(self) -> RowStream:
        return self

    async def __anext__(self) -> Event:
        while not self._unread:
            if self._ended or self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        self._idle_turns = 0
        event = self._unread.popleft()
        if isinstance(event, Finished | Failed):
            self._closed = True
        return event

    async def aclose(self) -> None:
        """Read no further; a row that still runs is cancelled."""
        self._closed = True
        self._unread.clear()
        self._arrived.set()
        if not self._ended:
            self._ended = True
            self._abandon()

    def _watch(self) -> None:
        """Count the event loop's turns until the reader keeps up, or has shown that it does not."""
        self._watched = not self._ended and len(self._unread) > self._limit
        if not self._watched:
            return
        self._idle_turns += 1
        if self._idle_turns <= _TURNS:
            asyncio.get_running_loop().call_soon(self._watch)
            return
        self.push(
            Failed(
                SlowReader(
                    f"The client left more than {self._limit} tokens unread; read faster, or raise "
                    "event_queue_limit."
                )
            )
        )
        self._abandon()
