"""Rows whose KV is quantized get together what they get alone, and take less memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.base.load import load_base
from adapters.base.quantized_kv import KVQuantization
from adapters.base.tokenizer import load_tokenizer
from adapters.formats.mlx_lm import read_adapter
from adapters.formats.revision import revision_id
from server.core.messages import Failed, Finished, Generate, Sampling, Token
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from tests.directory_adapters import DirectoryAdapters
from tests.equality import assert_same_tokens

pytestmark = pytest.mark.anyio

LIMITS = Limits(
    max_rows=16,
    prefill_rows=4,
    prefill_block_s=0.05,
    queue_limit=64,
    event_queue_limit=512,
    adapter_budget_bytes=1 << 26,
    kv_budget_tokens=1 << 16,
)
TOKENS = 24
QUESTIONS = ("What is a rudder?", "Who waters the garden at noon? And who at night?", "Bread.")


class Bench:
    """An engine on the tiny model, and rows by adapter name."""

    def __init__(
        self, model: Path, adapters: dict[str, Path], bits: int | None, limits: Limits
    ) -> None:
        self.tokenizer = load_tokenizer(model)
        self.revisions = {name: revision_id(read_adapter(path)) for name, path in adapters.items()}
        directories = {self.revisions[name]: path for name, path in adapters.items()}

        def load() -> LoadedModel:
            base = load_base(model)
            kv = None if bits is None else KVQuantization(bits, 32)
            return LoadedModel(base.model, self.tokenizer.vocab_size, base.compute.dtype, kv)

        self.engine = MlxEngine(load, limits, DirectoryAdapters(directories))
        self.most_kv_bytes = 0
        self._count = 0

    async def run(
        self, name: str | None, number: int, *, temperature: float = 0.0
    ) -> tuple[list[int], list[float]]:
        """A row's tokens, and how far each lay above the second best where that is reported."""
        self._count += 1
        request = Generate(
            request_id=f"row-{self._count}",
            prompt=tuple(self.tokenizer.encode(QUESTIONS[number % len(QUESTIONS)])),
            max_tokens=TOKENS,
            sampling=Sampling(seed=number, temperature=temperature, logprobs=2),
            end_tokens=frozenset(),
            revision=None if name is None else self.revisions[name],
            flow=name or "",
        )
        tokens, margins = [], []
        async for event in self.engine.submit(request):
            assert not isinstance(event, Failed), event
            self.most_kv_bytes = max(self.most_kv_bytes, self.engine.stats().kv_bytes)
            if isinstance(event, Token):
                tokens.append(event.token)
                assert event.logprobs is not None
                (_, best), (_, second) = event.logprobs.top
                margins.append(best - second)
            if isinstance(event, Finished):
                assert event.completion_tokens == TOKENS
        return tokens, margins


@asynccontextmanager
async def running(
    model: Path, adapters: dict[str, Path], bits: int | None, limits: Limits = LIMITS
) -> AsyncIterator[Bench]:
    """A started engine, stopped at the end and found whole."""
    bench = Bench(model, adapters, bits, limits)
    await bench.engine.start()
    try:
        yield bench
        assert bench.engine.stats().integrity == "ok"
    finally:
        await bench.engine.stop(grace_s=0)


@pytest.mark.parametrize("bits", [8, 4])
async def test_rows_of_every_adapter_draw_together_what_they_draw_alone(
    tiny_model: Path, tiny_adapters: dict[str, Path], bits: int
) -> None:
    """Prompts of different lengths are padded, rows join and leave, and nothing leaks."""
    names: list[str | None] = [None, *tiny_adapters, None, *tiny_adapters]
    async with running(tiny_model, tiny_adapters, bits) as bench:
        alone = [await bench.run(name, index) for index, name in enumerate(names)]
        together = await asyncio.gather(
            *(bench.run(name, index) for index, name in enumerate(names))
        )
    assert_same_tokens(
        [tokens for tokens, _ in alone],
        [tokens for tokens, _ in together],
        [margins for _, margins in alone],
    )


async def test_seeded_rows_draw_together_what_they_draw_alone(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """A draw hangs on the seed and the position alone, with any cache."""
    names: list[str | None] = [None, *tiny_adapters]
    async with running(tiny_model, tiny_adapters, 8) as bench:
        alone = [await bench.run(name, i, temperature=0.8) for i, name in enumerate(names)]
        together = await asyncio.gather(
            *(bench.run(name, i, temperature=0.8) for i, name in enumerate(names))
        )
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]


async def test_preempted_rows_lose_nothing(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """What was quantized before is quantized again to the same codes."""
    async with running(tiny_model, tiny_adapters, 8) as bench:
        alone = [await bench.run("a4", index) for index in range(4)]
    tight = replace(LIMITS, kv_budget_tokens=96, reserve_tokens=1)
    async with running(tiny_model, tiny_adapters, 8, tight) as bench:
        found = await asyncio.gather(*(bench.run("a4", index) for index in range(4)))
    assert_same_tokens(
        [tokens for tokens, _ in alone],
        [tokens for tokens, _ in found],
        [margins for _, margins in alone],
    )


async def test_the_statistics_tell_the_bytes_of_the_kv(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """8 bits and a float32 scale and bias for 32 values: 10 bits of 32, and none are left over."""
    most = {}
    for bits in (None, 8, 4):
        async with running(tiny_model, tiny_adapters, bits) as bench:
            await bench.run("b8", 0)
            most[bits] = bench.most_kv_bytes
            await bench.run(None, 0)
            assert bench.engine.stats().kv_bytes == 0
    # 4 layers, keys and values, 2 heads of 32, room for 256 tokens or that and the prompt.
    assert most[None] is not None
    assert most[None] >= 4 * 2 * 2 * 32 * 256 * 4
    assert most[8] == most[None] * 10 // 32
    assert most[4] == most[None] * 6 // 32
