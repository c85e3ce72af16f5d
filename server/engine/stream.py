"""A row's events on their way to one reader, bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from server.core.errors import SlowReader
from server.core.messages import Event, Failed, Finished


class RowStream:
    """The events of one row, in order; event loop only.

    Holds at most ``limit`` unread events: a reader that lags further loses the row, which ends
    with Failed(SlowReader). Closing the stream before its last event abandons the row.
    """

    def __init__(self, *, limit: int, abandon: Callable[[], None]) -> None:
        self._limit = limit
        self._abandon = abandon
        self._unread: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether the last event has arrived."""
        return self._ended

    def push(self, event: Event) -> None:
        """Add an event; nothing follows the last one."""
        if self._ended:
            return
        last = isinstance(event, Finished | Failed)
        if not last and len(self._unread) >= self._limit:
            event = Failed(
                SlowReader(
                    f"The client left {self._limit} tokens unread; read faster, or raise "
                    "event_queue_limit."
                )
            )
            self._abandon()
            last = True
        self._ended = last
        self._unread.append(event)
        self._arrived.set()

    def __aiter__(self) -> RowStream:
        return self

    async def __anext__(self) -> Event:
        while not self._unread:
            if self._ended or self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
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
