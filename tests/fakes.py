"""An engine that behaves as the real one does, without a model.

Nothing here sleeps: a test holds the engine's gate, lets single steps through and waits with
``until`` for what it needs to see. The catalog needs no fake: ``server.core.catalog`` is pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from server.core.errors import (
    EngineFailed,
    InvalidRequest,
    QueueFull,
    ServeError,
    ShuttingDown,
)
from server.core.fair_queue import Candidate, FairQueue, Room, Standing
from server.core.messages import (
    Constraint,
    EngineStats,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    PromptLogprobs,
    Token,
)
from server.core.ports import Events
from server.engine.stream import RowStream
from tests.fake_constraints import Constrained
from tests.fake_rows import Row, Script, letters, logprobs_of, pooled, saying

__all__ = ["FakeEngine", "Script", "letters", "saying"]

_KV_TOKENS = 1 << 30
"""A fake row costs no memory."""


class FakeEngine:
    """The Engine port on the event loop: one token for each running row and step.

    Rows start in the order of the real engine's queue.

    ``submitted`` and ``cancelled`` record what was asked, in order. ``refusals`` maps a revision to
    the error that its rows fail with before their first token. ``cached_tokens`` is what every
    Finished reports.
    """

    def __init__(
        self,
        *,
        queue_limit: int = 16,
        max_rows: int = 4,
        event_queue_limit: int = 1024,
        context: int = 512,
        script: Script = letters,
        fails_to_start: bool = False,
    ) -> None:
        self.submitted: list[Generate] = []
        self.cancelled: list[str] = []
        self.refusals: dict[str, ServeError] = {}
        self.cached_tokens, self.script = 0, script
        self._queue_limit, self._max_rows = queue_limit, max_rows
        self._event_queue_limit, self._context = event_queue_limit, context
        self._fails_to_start = fails_to_start
        self._state = "starting"
        self._waiting: dict[str, Row] = {}
        self._queue = FairQueue(lambda _: Standing.READY)
        self._running: list[Row] = []
        self._steps = self._generated = self._prompted = 0
        self._permits: float = float("inf")
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As the port; raises EngineFailed with ``fails_to_start``."""
        if self._fails_to_start:
            self._state = "failed"
            raise EngineFailed("the device cannot start")
        self._state = "ready"
        self._task = asyncio.create_task(self._run())

    def check(self, constraint: Constraint) -> None:
        """As the port."""
        Constrained(constraint)

    def submit(self, request: Generate) -> Events:
        """As the port."""
        if self._state == "failed":
            raise EngineFailed("the device failed; the server is about to restart")
        if self._state != "ready":
            raise ShuttingDown("the server is shutting down")
        if not request.prompt or len(request.prompt) + request.max_tokens > self._context:
            raise InvalidRequest(f"a row holds from 1 to {self._context} tokens")
        if len(self._waiting) >= self._queue_limit:
            raise QueueFull(
                f"{self._queue_limit} requests wait already; try again in a moment", retry_after_s=3
            )
        events = RowStream(
            limit=self._event_queue_limit, abandon=lambda: self.cancel(request.request_id)
        )
        row = Row(request, iter(self.script(request)), Constrained(request.constraint), events)
        self.submitted.append(request)
        self._waiting[request.request_id] = row
        self._queue.push(
            Candidate(
                request.request_id,
                request.flow,
                len(request.prompt) + request.max_tokens,
                request.revision,
                request.priority,
            )
        )
        self._notify()
        return events

    def cancel(self, request_id: str) -> None:
        """As the port, at once."""
        self.cancelled.append(request_id)
        for row in self._rows():
            if row.request.request_id == request_id:
                self._finish(row, FinishReason.CANCELLED)
        self._notify()

    def stats(self) -> EngineStats:
        """As the port."""
        return EngineStats(
            state=self._state,
            waiting=len(self._waiting),
            decoding=len(self._running),
            steps=self._steps,
            prompt_tokens=self._prompted,
            generated_tokens=self._generated,
        )

    async def stop(self, *, grace_s: float) -> None:
        """As the port."""
        if self._state == "ready":
            self._state = "draining"
        try:
            async with asyncio.timeout(grace_s):
                await self.until(lambda: not self._rows())
        except TimeoutError:
            for row in self._rows():
                self._finish(row, FinishReason.CANCELLED)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._state != "failed":
            self._state = "stopped"

    def hold(self) -> None:
        """Let no further step happen."""
        self._permits = 0

    def step(self, count: int = 1) -> None:
        """Let ``count`` further steps happen."""
        self._permits += count
        self._notify()

    def release(self) -> None:
        """Let steps happen freely."""
        self._permits = float("inf")
        self._notify()

    def step_now(self) -> None:
        """Take a step, held or not, without a turn of the event loop: as a device of its own."""
        self._step()

    def poison(self) -> None:
        """The device fails: every row ends with EngineFailed, and so does every later one."""
        self._state = "failed"
        for row in self._rows():
            self._last(row, Failed(EngineFailed("the device failed; the server restarts")))
        self._notify()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when ``holds()``; it is asked again after every change of the engine."""
        while not holds():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _rows(self) -> list[Row]:
        return [*self._running, *self._waiting.values()]

    async def _run(self) -> None:
        while True:
            await self.until(lambda: bool(self._rows()) and self._permits >= 1)
            self._permits -= 1
            self._step()
            self._notify()
            await asyncio.sleep(0)  # a real device gives the event loop time as well

    def _step(self) -> None:
        running = len(self._running)
        room = Room(self._max_rows - running, _KV_TOKENS, running, self._context)
        for candidate in self._queue.take(room):
            row = self._waiting.pop(candidate.request_id)
            self._prompted += len(row.request.prompt)
            self._running.append(row)
            if (refusal := self.refusals.get(row.request.revision or "")) is not None:
                self._last(row, Failed(refusal))
                continue
            self._report_prompt(row)
            if row.request.pooled:
                row.events.push(pooled(row.request))
            if not row.request.max_tokens:
                self._finish(row, FinishReason.LENGTH)
        self._steps += 1
        for row in list(self._running):
            self._advance(row)

    def _advance(self, row: Row) -> None:
        token = row.constrained.choose(next(row.tokens, None))
        report = None if token is None else logprobs_of(token, row.request.sampling.logprobs)
        drawn = None if token is None else Token(token, report)
        if drawn is None or token in row.request.end_tokens:
            self._finish(row, FinishReason.STOP, drawn)
            return
        row.produced += 1
        self._generated += 1
        row.events.push(drawn)
        if (whole := row.constrained.is_whole) or row.produced == row.request.max_tokens:
            self._finish(row, FinishReason.STOP if whole else FinishReason.LENGTH)

    def _report_prompt(self, row: Row) -> None:
        """In pieces of two tokens, as a device reports a long prompt in several."""
        wanted = row.request.prompt_logprobs
        if wanted is None:
            return
        found = [
            report for token in row.request.prompt[1:] if (report := logprobs_of(token, wanted))
        ]
        for start in range(0, len(found), 2):
            row.events.push(PromptLogprobs(tuple(found[start : start + 2])))

    def _finish(self, row: Row, reason: FinishReason, end: Token | None = None) -> None:
        prompt = len(row.request.prompt)
        self._last(row, Finished(reason, prompt, row.produced, self.cached_tokens, end))

    def _last(self, row: Row, event: Event) -> None:
        if row in self._running:
            self._running.remove(row)
        else:
            del self._waiting[row.request.request_id]
            self._queue.remove(row.request.request_id)
        row.events.push(event)
