"""The rows of one admitted request: each row's reply, and how several become one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from server.api.echo import Echo
from server.api.parts import Parts
from server.api.transcript import Piece, Report, Transcript
from server.core.errors import DeadlineExceeded
from server.core.messages import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Pooled,
    PromptLogprobs,
)


@dataclass(frozen=True, slots=True)
class End:
    """How a row ended. Counts are tokens.

    ``cut`` tells that the row was cancelled, as the server does to shut down; ``stop`` is the stop
    string that ended it. ``index`` is the row's place in the request, ``choice`` its place among
    the rows that continue the same prompt. ``report`` is of the end token, which is no part of the
    text. ``reasoning_tokens``, of the completion's, is None where the text is not read for
    reasoning.
    """

    reason: Literal["stop", "length", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cut: bool = False
    index: int = 0
    choice: int = 0
    stop: str | None = None
    report: Report | None = None
    reasoning_tokens: int | None = None


Reply = AsyncGenerator[Piece | End, None]
"""Of each row a Piece for each token, possibly empty, one for what was held back, then its End.

The rows of a request come mixed, told apart by ``index``; each keeps its order.
"""


class Deadline:
    """The end of a request's life, counted from now."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._when = asyncio.get_running_loop().time() + limit_s

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Raises DeadlineExceeded if what happens inside lasts beyond the end."""
        try:
            async with asyncio.timeout_at(self._when) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"The request was not finished within {self._limit_s:g} s "
                "(request_timeout_s); ask for fewer tokens, or raise the setting."
            ) from None


class Row:
    """A queued row and the one place where it ends; with ``echo`` the prompt begins its text."""

    def __init__(
        self,
        parts: Parts,
        request: Generate,
        deadline: Deadline,
        transcript: Transcript,
        echo: Echo | None,
    ) -> None:
        self._engine = parts.engine
        self._request = request
        self._deadline = deadline
        self._transcript = transcript
        self._echo = echo
        self._events = self._engine.submit(request)
        self._ended = False

    async def reply(self, index: int, choice: int) -> Reply:
        """What the row says; raises what it failed with."""
        transcript, report = self._transcript, None
        while True:
            event = await self._next()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, PromptLogprobs):
                self._echoing().add(event)
                continue
            if self._echo is not None:
                yield self._echo.piece(index)
                self._echo = None
            if isinstance(event, Finished):
                yield transcript.finish()
                reason, cached_tokens = event.reason, event.cached_tokens
                report = transcript.end(event.end)
                break
            if isinstance(event, Pooled):
                raise TypeError("a row that is pooled has no reply")
            yield transcript.add(event)
            if transcript.stopped:
                reason, cached_tokens = FinishReason.STOP, await self._cancelled()
                break
        stopped = transcript.stopped or reason is FinishReason.STOP
        ended: Literal["stop", "tool_calls"] = "tool_calls" if transcript.calls else "stop"
        yield End(
            reason=ended if stopped else "length",
            prompt_tokens=len(self._request.prompt),
            completion_tokens=transcript.tokens,
            cached_tokens=cached_tokens,
            cut=reason is FinishReason.CANCELLED and not stopped,
            index=index,
            choice=choice,
            stop=transcript.stop,
            report=report,
            reasoning_tokens=transcript.reasoning_tokens,
        )

    async def close(self) -> None:
        """End the row in the engine if it still runs."""
        if not self._ended:
            self._engine.cancel(self._request.request_id)
        await self._events.aclose()

    def _echoing(self) -> Echo:
        if self._echo is None:
            raise RuntimeError(
                "the prompt's probabilities come before its completion, if asked for"
            )
        return self._echo

    async def _next(self) -> Event:
        async with self._deadline.watch():
            event = await anext(self._events)
        self._ended = isinstance(event, Finished | Failed)
        return event

    async def _cancelled(self) -> int:
        """End the row at a stop string; its last event, a step away, has the cached tokens."""
        self._engine.cancel(self._request.request_id)
        while not self._ended:
            event = await self._next()
        return event.cached_tokens if isinstance(event, Finished) else 0


@asynccontextmanager
async def merged(replies: Sequence[Reply]) -> AsyncIterator[Reply]:
    """All ``replies`` as one, which ends after the last End or raises the first failure.

    At most one unread item of each row is held here; the rest waits in the row's own stream. So no
    row keeps another from being read, however much of it has come at once.
    """
    unread: asyncio.Queue[tuple[Piece | End | Exception, asyncio.Event]] = asyncio.Queue()

    async def pass_on(reply: Reply) -> None:
        taken = asyncio.Event()
        try:
            async for item in reply:
                unread.put_nowait((item, taken))
                await taken.wait()
                taken.clear()
        except Exception as error:  # noqa: BLE001 - raised where the reply is read
            unread.put_nowait((error, taken))

    async def read() -> Reply:
        running = len(replies)
        while running:
            item, taken = await unread.get()
            taken.set()
            if isinstance(item, Exception):
                raise item
            running -= isinstance(item, End)
            yield item

    if len(replies) == 1:
        yield replies[0]
        return
    tasks = [asyncio.create_task(pass_on(reply)) for reply in replies]
    whole = read()
    try:
        yield whole
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await whole.aclose()
