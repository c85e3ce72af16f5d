"""In which order rows start: fair between chains, urgent first, and nothing starves.

Counted in rows that got their first token before: no clock decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from server.core.fair_queue import FAIR_EVERY
from server.core.messages import Generate, Token
from server.core.ports import Engine
from tests.conformance.harness import Harness, eventually, row, rows_in, running

pytestmark = pytest.mark.anyio
FLOOD = 60
MOST_ROWS = 4


async def first_tokens(engine: Engine, harness: Harness, rows: Sequence[Generate]) -> list[str]:
    """The flows of ``rows`` in the order of their first tokens; all wait before one starts."""
    order: list[str] = []

    async def read(request: Generate) -> None:
        async for event in engine.submit(request):
            if isinstance(event, Token):
                order.append(request.flow)
                return

    tasks = [asyncio.create_task(read(each)) for each in rows]
    await asyncio.sleep(0)
    harness.release()
    await asyncio.gather(*tasks)
    return order


def flood(
    harness: Harness,
    flow: str,
    *,
    count: int = FLOOD,
    revision: str | None = None,
    priority: int = 0,
) -> list[Generate]:
    """Rows of one chain, two tokens each."""
    return [
        row(harness, number, max_tokens=2, flow=flow, revision=revision, priority=priority)
        for number in range(count)
    ]


async def test_a_row_of_another_chain_waits_for_one_row_of_a_flood(harness: Harness) -> None:
    """FACTS 4, case 8: with 200 rows of A before it, B's first token comes after at most two.

    The first of them may have started before the device heard of the others.
    """
    async with running(harness, queue_limit=256, max_rows=1) as engine:
        harness.hold()
        rows = [*flood(harness, "A", count=200), *flood(harness, "B", count=1)]
        order = await first_tokens(engine, harness, rows)
    assert order.index("B") <= 2


async def test_a_row_of_another_chain_waits_for_what_runs_and_no_more(harness: Harness) -> None:
    """However long the flood has been served before."""
    async with running(harness, queue_limit=FLOOD + 1, max_rows=MOST_ROWS) as engine:
        order: list[str] = []
        waited = asyncio.Event()

        async def read(request: Generate) -> None:
            async for event in engine.submit(request):
                if isinstance(event, Token):
                    order.append(request.flow)
                    if len(order) == FLOOD // 2:
                        waited.set()
                    return

        floods = [asyncio.create_task(read(each)) for each in flood(harness, "A")]
        await waited.wait()
        before = len(order)
        await read(row(harness, max_tokens=1, flow="B"))
        # What runs, what may have started while the row was on its way, and one row of its turn.
        assert order[before:].index("B") <= 3 * MOST_ROWS + 1
        await asyncio.gather(*floods)


async def test_a_cold_adapter_waits_for_no_flood_and_delays_none(harness: Harness) -> None:
    """FACTS 4, case 8: the rows that are ready start meanwhile; then it has its turn."""
    cold = flood(harness, "cold", count=1, revision=harness.revision)
    async with running(harness, queue_limit=FLOOD + 1, max_rows=1) as engine:
        harness.hold()
        order = await first_tokens(engine, harness, [*cold, *flood(harness, "A")])
    assert len(order) == FLOOD + 1
    assert order[-1] == "A"


async def test_an_urgent_row_goes_first_and_a_flood_of_them_starves_nobody(
    harness: Harness,
) -> None:
    """A lower priority is earlier; one start in FAIR_EVERY asks for none."""
    rows = [*flood(harness, "idle", count=2, priority=9), *flood(harness, "urgent", priority=-9)]
    async with running(harness, queue_limit=FLOOD + 2, max_rows=1) as engine:
        harness.hold()
        order = await first_tokens(engine, harness, rows)
    assert order.index("urgent") == 0
    assert order[: 2 * FAIR_EVERY].count("idle") == 2


async def test_one_giant_row_and_many_small_ones_all_end(harness: Harness) -> None:
    """A row that fills the memory runs alone, and no order of arrivals locks the others out."""
    giant = row(harness, max_tokens=harness.context - 16, flow="giant")
    small = [row(harness, number, max_tokens=1, flow="small") for number in range(20)]
    async with running(harness, queue_limit=64, max_rows=MOST_ROWS) as engine:
        streams = [engine.submit(each) for each in [*small[:10], giant, *small[10:]]]
        for stream in streams:
            async for _ in stream:
                pass
        await eventually(lambda: rows_in(engine) == 0)
        assert engine.stats().integrity == "ok"
