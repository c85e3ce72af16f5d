"""More adapters than the bank holds: all are served, by turns, and a flood starves nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.formats.mlx_lm import read_adapter
from tests.acceptance.serving.asking import QUESTIONS, asker
from tests.acceptance.serving.process import ServerProcess, started

pytestmark = pytest.mark.anyio
ROWS = 2
FLOOD = 24


@pytest.fixture(scope="module")
def budget(tiny_adapters: dict[str, Path]) -> int:
    """Bytes for the largest of the adapters, hence for no two of the larger ones."""
    return max(read_adapter(directory).nbytes for directory in tiny_adapters.values())


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    budget: int,
) -> Iterator[ServerProcess]:
    """Room for one adapter and for two rows."""
    options = ["--adapter-budget-bytes", str(budget), "--max-rows", str(ROWS)]
    options += ["--port", "0", "--no-supervise"]
    scratch = tmp_path_factory.mktemp("crowded_bank")
    with started(scratch, tiny_model, tiny_adapters, *options) as process:
        process.serving()
        yield process


def engine(server: ServerProcess) -> dict[str, Any]:
    """What ``/admin/engine`` shows."""
    shown: dict[str, Any] = httpx.get(f"{server.serving()}/admin/engine", timeout=20).json()
    return shown


async def test_more_adapters_than_fit_are_all_served(
    server: ServerProcess, budget: int, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """FACTS 4, case 8: eviction changes no answer, and the budget holds."""
    asked = [(chain, question) for question in QUESTIONS for chain in tiny_adapters]
    async with asker(server.serving(), tiny_model, tiny_adapters) as client:
        answers = await asyncio.gather(*(client.ask(*each) for each in asked))
        client.assert_cold(asked, answers)
    stats = engine(server)["stats"]
    assert stats["adapter_evictions"] > 0
    assert stats["resident_bytes"] <= budget


async def test_a_flood_on_one_chain_does_not_starve_another_that_finds_no_room(
    server: ServerProcess, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """FACTS 4, case 8: it waits for one batch of the flood and for what runs, not for its end."""
    ended: list[str] = []
    async with asker(server.serving(), tiny_model, tiny_adapters) as client:

        async def ask(chain: str) -> None:
            await client.ask(chain, QUESTIONS[0], count=8, endless=True)
            ended.append(chain)

        flood = [asyncio.create_task(ask("b8")) for _ in range(FLOOD)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        before = len(ended)
        await asyncio.gather(ask("c16"), *flood)
    # Arrived, it sees the running rows end, then one batch and the row that crosses its line.
    waited_for = ended.index("c16") - before
    assert waited_for <= 3 * ROWS + 2, ended
