"""A thousand chains over HTTP with room for sixteen: own answers, and bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from adapters.base.fingerprint import fingerprint
from adapters.formats.arrays import from_values
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Origin
from adapters.store import Store
from tests.acceptance.serving.asking import QUESTIONS, asker
from tests.acceptance.serving.process import BASE, ServerProcess, started
from tests.adapters.store.rig import unsynced

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CHAINS, RESIDENT, REQUESTS, AT_ONCE = 1000, 16, 300, 8
ROOM_FOR_ROWS = 64 << 20


@dataclass(frozen=True)
class Product:
    """A server, where each chain's revision lies, and the adapter budget in bytes."""

    server: ServerProcess
    directories: dict[str, Path]
    budget: int

    def stats(self) -> dict[str, Any]:
        """The engine's."""
        shown = httpx.get(f"{self.server.serving()}/admin/engine", timeout=20).json()
        stats: dict[str, Any] = shown["stats"]
        return stats


def like(template: AdapterFiles, seed: int) -> AdapterFiles:
    """An adapter of the same shape with values of its own, large enough to be heard."""
    draw = np.random.default_rng(seed)
    tensors = {
        path: (
            from_values(draw.normal(0, 0.2, a.shape).astype(np.float32)),
            from_values(draw.normal(0, 0.2, b.shape).astype(np.float32)),
        )
        for path, (a, b) in template.tensors.items()
    }
    return AdapterFiles(template.shape, tensors)


def register(data_dir: Path, model: Path, template: AdapterFiles) -> dict[str, Path]:
    """Every chain with one revision; their directories by name."""
    directories = {}
    with unsynced():
        store = Store(data_dir, clock=time.time, base=fingerprint(model))
        for number in range(CHAINS):
            name, files = f"chain{number:03}", like(template, number)
            temp = store.revision_temp()
            write_adapter(temp, files)
            revision = revision_id(files)
            store.chains.import_revision(
                name,
                temp,
                revision,
                shape=files.shape,
                manifest={"format": "chainlora manifest 1"},
                origin=Origin.IMPORTED,
            )
            directories[name] = store.revision_path(revision)
        store.close()
    return directories


@pytest.fixture(scope="module")
def product(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> Iterator[Product]:
    """Served with a budget for sixteen adapters and without kept prefixes."""
    scratch = tmp_path_factory.mktemp("thousand")
    template = read_adapter(tiny_adapters["a4"])
    directories = register(scratch / "data", tiny_model, template)
    budget = RESIDENT * like(template, 0).nbytes
    options = ["--adapter-budget-bytes", str(budget), "--prefix-cache-bytes", "0"]
    options += ["--port", "0", "--no-supervise"]
    with started(scratch, tiny_model, {}, *options) as server:
        server.serving()
        yield Product(server, directories, budget)


async def test_every_chain_answers_as_itself_within_the_budget(
    product: Product, tiny_model: Path
) -> None:
    """Zipf 1.5 over a thousand chains: own answers, a bounded bank, and most requests hit it."""
    before = product.stats()
    assert before["registered_adapters"] == CHAINS
    draw = np.random.default_rng(7)
    ranks = [int(rank) for rank in draw.zipf(1.5, 10 * REQUESTS) if rank <= CHAINS][:REQUESTS]
    asked = [(f"chain{rank - 1:03}", QUESTIONS[rank % len(QUESTIONS)]) for rank in ranks]
    resident: list[tuple[int, int]] = []
    gate = asyncio.Semaphore(AT_ONCE)
    url = product.server.serving()
    async with (
        asker(url, tiny_model, product.directories) as client,
        httpx.AsyncClient(base_url=url, timeout=20) as http,
    ):

        async def ask(chain: str, question: str) -> Any:
            async with gate:
                answer = await client.ask(chain, question, count=12)
                stats = (await http.get("/admin/engine")).json()["stats"]
                resident.append((stats["resident_adapters"], stats["resident_bytes"]))
                return answer

        answers = await asyncio.gather(*(ask(*each) for each in asked))
        distinct = dict(zip(asked, answers, strict=True))
        client.assert_cold(list(distinct), list(distinct.values()), count=12)
    after = product.stats()
    assert max(count for count, _ in resident) == RESIDENT
    assert max(size for _, size in resident) <= product.budget
    hits, misses = (after[key] - before[key] for key in ("adapter_hits", "adapter_misses"))
    assert hits + misses == REQUESTS
    assert hits / REQUESTS > 0.6
    assert after["adapter_evictions"] == after["adapter_loads"] - RESIDENT
    assert after["integrity"] == "ok"
    grown = after["memory_bytes"] - before["memory_bytes"]
    # The mixture of a decode batch holds its adapters side by side once more.
    assert grown <= 2 * product.budget + ROOM_FOR_ROWS


async def test_the_bank_keeps_what_was_used_last(product: Product, tiny_model: Path) -> None:
    """Sixteen chains in turn, twice: the second time every one is a hit."""
    chains = [f"chain{number:03}" for number in range(500, 500 + RESIDENT)]
    async with asker(product.server.serving(), tiny_model, product.directories) as client:
        for _ in range(2):
            before = product.stats()
            for chain in chains:
                await client.ask(chain, QUESTIONS[0], count=1)
    assert product.stats()["adapter_hits"] - before["adapter_hits"] == RESIDENT


def test_every_chain_is_listed_and_can_be_looked_up(product: Product) -> None:
    """The whole list in one answer, as OpenAI's is."""
    url = product.server.serving()
    listed = httpx.get(f"{url}/v1/models", timeout=20).json()["data"]
    assert len(listed) == CHAINS + 1
    row = httpx.get(f"{url}/v1/models/{BASE}:chain999", timeout=20).json()
    assert row == listed[-1]
