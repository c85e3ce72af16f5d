"""Rows whose KV is quantized get together what they get alone, and take less memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.base.quantized_kv import KVQuantization
from server.core.messages import Event, Generate, Sampling, Token
from tests.equality import assert_same_tokens
from tests.server.engine.guessing import guess
from tests.server.engine.rig import LIMITS, QUESTIONS, Bench, running, tokens

pytestmark = pytest.mark.anyio

EIGHT, FOUR = KVQuantization(8, 32), KVQuantization(4, 32)
PLAIN = replace(LIMITS, prefix_cache_bytes=0, speculate=False)
GREEDY = Sampling(seed=0, temperature=0.0, logprobs=2)


def rows(bench: Bench, names: list[str | None]) -> list[Generate]:
    """A greedy row for each name; prompts of several lengths, up to 100 tokens."""
    texts = [question * (1 + 2 * index) for index, question in enumerate(QUESTIONS)]
    return [
        bench.row(name, bench.tokenizer.encode(texts[index % len(texts)])[:100], GREEDY)
        for index, name in enumerate(names)
    ]


def assert_alike(reference: list[list[Event]], found: list[list[Event]]) -> None:
    """The same tokens, but where the reference's two best are too close to call."""
    margins = [
        [
            event.logprobs.top[0][1] - event.logprobs.top[1][1]
            for event in events
            if isinstance(event, Token) and event.logprobs is not None
        ]
        for events in reference
    ]
    assert_same_tokens([tokens(one) for one in reference], [tokens(one) for one in found], margins)


@pytest.mark.parametrize("kv", [EIGHT, FOUR], ids=["8", "4"])
async def test_rows_of_every_adapter_draw_together_what_they_draw_alone(
    tiny_model: Path, tiny_adapters: dict[str, Path], kv: KVQuantization
) -> None:
    """Pieces of prompts are padded, rows join and leave, and nothing leaks."""
    names: list[str | None] = [None, *tiny_adapters, None, "b8", "a4"]
    async with running(tiny_model, tiny_adapters, PLAIN, kv) as bench:
        alone = [await bench.ask(row) for row in rows(bench, names)]
        together = await asyncio.gather(*map(bench.ask, rows(bench, names)))
    assert_alike(alone, list(together))


async def test_seeded_rows_draw_together_what_they_draw_alone(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """A draw hangs on the seed and the position alone, with any cache.

    Few tokens: what lies between two codes falls to either side by the last bits of a sum.
    """
    names: list[str | None] = [None, *tiny_adapters]
    async with running(tiny_model, tiny_adapters, PLAIN, EIGHT) as bench:
        alone = [
            await bench.run(name, i, temperature=0.8, max_tokens=8) for i, name in enumerate(names)
        ]
        together = await asyncio.gather(
            *(bench.run(name, i, temperature=0.8, max_tokens=8) for i, name in enumerate(names))
        )
    assert [tokens(events) for events in together] == [tokens(events) for events in alone]


async def test_rows_that_are_preempted_or_begin_with_kept_codes_lose_nothing(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """What is kept of a prefix is codes too, and the next row goes on from them."""
    names: list[str | None] = ["a4", "b8", "a4", None, "a4"]
    async with running(tiny_model, tiny_adapters, PLAIN, EIGHT) as bench:
        alone = [await bench.ask(row) for row in rows(bench, names)]
    tight = replace(LIMITS, kv_budget_tokens=256, reserve_tokens=1)
    async with running(tiny_model, tiny_adapters, tight, EIGHT) as bench:
        for _ in range(2):
            found = await asyncio.gather(*map(bench.ask, rows(bench, names)))
            assert_alike(alone, list(found))
        stats = bench.engine.stats()
    assert stats.prefix_cache_tokens > 100
    # 10 of 32 bits.
    per_token = 4 * 2 * 2 * 32 * 4 * 10 // 32
    assert stats.prefix_cache_bytes % per_token == 0


async def test_guesses_are_verified_over_codes(
    tiny_model: Path, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that take tokens back, each another number of them, go on from the right codes."""
    names: list[str | None] = [None, "b8", "c16"]
    async with running(tiny_model, tiny_adapters, PLAIN, EIGHT) as bench:
        asked = rows(bench, names)
        plain = [await bench.ask(row) for row in asked]
    known = {row.prompt: tokens(events) for row, events in zip(asked, plain, strict=True)}
    guess(monkeypatch, known, wrong=3)
    async with running(tiny_model, tiny_adapters, replace(PLAIN, speculate=True), EIGHT) as bench:
        found = await asyncio.gather(*map(bench.ask, rows(bench, names)))
        assert 0 < bench.engine.stats().accepted_tokens < bench.engine.stats().guessed_tokens
    assert_alike(plain, list(found))


async def test_the_statistics_tell_the_bytes_of_the_kv(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """8 bits and a float32 scale and bias for 32 values: 10 bits of 32, and none are left over."""
    most = {}
    for bits, kv in {32: None, 8: EIGHT, 4: FOUR}.items():
        async with running(tiny_model, tiny_adapters, PLAIN, kv) as bench:
            sizes = [
                bench.engine.stats().kv_bytes
                async for _ in bench.engine.submit(rows(bench, ["b8"])[0])
            ]
            most[bits] = max(sizes)
            await bench.run(None, 0)
            assert bench.engine.stats().kv_bytes == 0
    # 4 layers, keys and values, 2 heads of 32, room for 256 tokens beside the prompt.
    assert most[32] >= 4 * 2 * 2 * 32 * 256 * 4
    assert most[8] == most[32] * 10 // 32
    assert most[4] == most[32] * 6 // 32
