"""What the suite needs beside the port: prompts, hands on the device, and how to run a row."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio

from server.core.messages import Event, Finished, Generate, Sampling, Token
from server.core.ports import Engine, Events
from tests.fake_tokenizer import FakeTokenizer
from tests.fakes import FakeEngine

GREEDY = Sampling(seed=1, temperature=0.0)
_ids = itertools.count()


class Harness(Protocol):
    """One engine under test, made anew for each test.

    ``revision`` is a registered adapter; ``context`` the longest row, prompt and completion.
    """

    revision: str
    context: int
    end_tokens: frozenset[int]

    def engine(self, *, queue_limit: int, max_rows: int, event_queue_limit: int) -> Engine:
        """The engine, not started yet. Called once."""
        ...

    def prompt(self, number: int) -> tuple[int, ...]:
        """A prompt of 3 to 12 tokens, another one for each number."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What ``tokens`` say."""
        ...

    def hold(self) -> None:
        """Keep the device from taking a step, until ``release``; before or after ``start``."""
        ...

    def release(self) -> None:
        """Let the device step; harmless where it was not held."""
        ...

    def run_ahead(self, tokens: int) -> None:
        """Have the one row generate ``tokens``; the event loop does not turn meanwhile."""
        ...

    def break_device(self) -> None:
        """Make the next step fail as a device does."""
        ...


class FakeHarness:
    """The fake engine's device is its gate."""

    revision = "sha256-fake"
    context = 512
    end_tokens = FakeTokenizer.end_tokens

    def __init__(self) -> None:
        self._fake = FakeEngine()

    def engine(self, *, queue_limit: int, max_rows: int, event_queue_limit: int) -> Engine:
        """A fake with these limits."""
        self._fake = FakeEngine(
            queue_limit=queue_limit,
            max_rows=max_rows,
            event_queue_limit=event_queue_limit,
            context=self.context,
        )
        return self._fake

    def prompt(self, number: int) -> tuple[int, ...]:
        """The bytes of a short text."""
        return tuple(f"say {number}".encode())

    def text(self, tokens: Sequence[int]) -> str:
        """The bytes' text."""
        return bytes(tokens).decode()

    def hold(self) -> None:
        """Close the gate."""
        self._fake.hold()

    def release(self) -> None:
        """Open the gate."""
        self._fake.release()

    def run_ahead(self, tokens: int) -> None:
        """Take the steps here and now."""
        for _ in range(tokens):
            self._fake.step_now()

    def break_device(self) -> None:
        """Fail at once."""
        self._fake.poison()


def row(harness: Harness, number: int = 0, *, max_tokens: int = 8, **fields: Any) -> Generate:
    """A greedy row of the base without end tokens: it ends by length."""
    values: dict[str, Any] = {"sampling": GREEDY, "end_tokens": frozenset(), **fields}
    return Generate(
        request_id=f"row-{next(_ids)}",
        prompt=harness.prompt(number),
        max_tokens=max_tokens,
        **values,
    )


@asynccontextmanager
async def running(
    harness: Harness, *, queue_limit: int = 8, max_rows: int = 4, event_queue_limit: int = 512
) -> AsyncIterator[Engine]:
    """The started engine, stopped at the end; a hang fails the test."""
    engine = harness.engine(
        queue_limit=queue_limit, max_rows=max_rows, event_queue_limit=event_queue_limit
    )
    with anyio.fail_after(60):
        await engine.start()
        try:
            yield engine
        finally:
            harness.release()
            await engine.stop(grace_s=0)


async def drain(events: Events) -> list[Event]:
    """Every event to the last."""
    return [event async for event in events]


async def tokens(engine: Engine, request: Generate) -> list[int]:
    """The generated tokens of a row that ends as it should."""
    events = await drain(engine.submit(request))
    assert isinstance(events[-1], Finished), events[-1]
    return [event.token for event in events if isinstance(event, Token)]


async def eventually(holds: Callable[[], bool]) -> None:
    """Ask ``holds`` until it is true: statistics have no event to wait for."""
    while not holds():
        await asyncio.sleep(0.002)


def rows_in(engine: Engine) -> int:
    """Rows that the engine still has."""
    stats = engine.stats()
    return stats.waiting + stats.prefilling + stats.decoding
