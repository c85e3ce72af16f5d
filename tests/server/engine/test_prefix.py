"""What one row left is found by the next, and answers are the ones of a cold cache."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache

from server.core.messages import Event, Finished, Generate, Sampling, Token
from server.engine.prefix import BLOCK, Held, PrefixCache
from tests.equality import Solo, assert_same_tokens, solo_greedy
from tests.memory import active_memory
from tests.server.engine.rig import LIMITS, Bench, running, tokens

pytestmark = pytest.mark.anyio

WARM = replace(LIMITS, prefix_cache_bytes=1 << 26)
COLD = replace(LIMITS, prefix_cache_bytes=0)
TEXT = (Path(__file__).parents[3] / "examples" / "text").glob("*.txt")
WORDS = " ".join(path.read_text() for path in sorted(TEXT)).split()


def text(seed: int, words: int) -> str:
    """Words that begin nothing else here begins with."""
    return f"{seed} " + " ".join(random.Random(seed).choices(WORDS, k=words))


def prompt(bench: Bench, *seeds: int, words: int = 60) -> list[int]:
    """A part for each seed, so that prompts with the same first seeds share a prefix."""
    return [token for seed in seeds for token in bench.tokenizer.encode(text(seed, words))]


def cached(events: Sequence[Event]) -> int:
    """Prompt tokens that were not computed."""
    last = events[-1]
    assert isinstance(last, Finished), last
    return last.cached_tokens


def reference(model: Path, adapter: Path | None, row: Generate) -> Solo:
    """What plain mlx-lm answers."""
    return solo_greedy(model, adapter, row.prompt, row.max_tokens)


def assert_cold(answers: Sequence[Sequence[Event]], solos: Sequence[Solo]) -> None:
    """Hold greedy answers to the reference's."""
    assert_same_tokens(
        [solo.tokens for solo in solos],
        [tokens(list(events)) for events in answers],
        [solo.margins for solo in solos],
    )


async def test_a_conversation_goes_on_from_all_that_was_said(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Prompt and answer of a turn are found by the next; the answers equal plain mlx-lm's."""
    answers, solos = [], []
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        for name in (None, "b8"):
            said, before = prompt(bench, 1), 0
            for turn in range(3):
                row = bench.row(name, said)
                answers.append(await bench.ask(row))
                solos.append(reference(tiny_model, tiny_adapters.get(name or ""), row))
                whole = [*said, *tokens(answers[-1])]
                assert cached(answers[-1]) == before
                said, before = [*whole, *prompt(bench, 10 + turn, words=5)], len(whole)
    assert_cold(answers, solos)


async def test_base_a_b_a_each_equal_their_cold_run(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """FACTS 4, case 2, with a warm cache: each revision finds its own prefix and no other's."""
    order: list[str | None] = [None, "b8", "c16", "b8", None, "c16"]
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        rows = [bench.row(name, prompt(bench, 2)) for name in order]
        answers = [await bench.ask(row) for row in rows]
    again = len(rows[0].prompt) - 1
    assert [cached(events) for events in answers] == [0, 0, 0, again, again, again]
    assert_cold(
        answers,
        [
            reference(tiny_model, tiny_adapters.get(name or ""), row)
            for name, row in zip(order, rows, strict=True)
        ],
    )


async def test_a_mixed_batch_behind_kept_prefixes_equals_the_cold_one(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Seeded, with penalties over prompt and answer, cut at any length, all in one batch."""
    sampling = Sampling(
        seed=3, temperature=0.7, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2
    )

    async def run(bench: Bench) -> list[list[Event]]:
        names = [None, *tiny_adapters]
        await asyncio.gather(*(bench.ask(bench.row(name, prompt(bench, 3))) for name in names))
        rows = [
            bench.row(name, [*prompt(bench, 3)[: 40 + 31 * number], *prompt(bench, 20 + number)])
            for number in range(3)
            for name in names
        ]
        rows = [replace(row, sampling=sampling) for row in rows]
        return list(await asyncio.gather(*(bench.ask(row) for row in rows)))

    async with running(tiny_model, tiny_adapters, COLD) as bench:
        cold = await run(bench)
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        warm = await run(bench)
    assert [tokens(events) for events in warm] == [tokens(events) for events in cold]
    assert not any(map(cached, cold))
    assert [cached(events) for events in warm] == [40] * 5 + [71] * 5 + [102] * 5


async def test_rows_that_arrive_together_compute_what_they_share_once(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """One system prompt, eight users: the first computes it, the others wait for that."""
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        rows = [bench.row("a4", prompt(bench, 4, 30 + user)) for user in range(8)]
        shared = len(prompt(bench, 4))
        answers = await asyncio.gather(*(bench.ask(row) for row in rows))
        computed = bench.engine.stats().prompt_tokens
    assert_cold(answers, [reference(tiny_model, tiny_adapters["a4"], row) for row in rows])
    total = sum(len(row.prompt) for row in rows)
    assert computed == total - sum(map(cached, answers))
    assert computed <= total - 7 * (shared - BLOCK)


async def test_a_row_that_is_cancelled_leaves_what_it_had(tiny_model: Path) -> None:
    """A client that goes away in the middle, or whose stop string came, may well come again."""
    async with running(tiny_model, {}, WARM) as bench:
        row = bench.row(None, prompt(bench, 5), max_tokens=500)
        async with aclosing(bench.engine.submit(row)) as events:
            first = [await anext(events) for _ in range(6)]
        said = [*row.prompt, *(event.token for event in first if isinstance(event, Token))]
        assert (
            cached(await bench.ask(bench.row(None, [*said, 7]))) == len(said) == len(row.prompt) + 6
        )


async def test_a_preempted_row_finds_what_it_had(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Prompt and answer so far are not computed again, and the answer is the same."""
    tight = replace(WARM, kv_budget_tokens=4 * 90, reserve_tokens=1)
    async with running(tiny_model, tiny_adapters, tight) as bench:
        rows = [bench.row("b8", prompt(bench, 60 + n)[:80], max_tokens=64) for n in range(4)]
        answers = await asyncio.gather(*(bench.ask(row) for row in rows))
        stats = bench.engine.stats()
    assert_cold(answers, [reference(tiny_model, tiny_adapters["b8"], row) for row in rows])
    first = sum(map(cached, answers))
    assert stats.prefix_cache_tokens >= first + 80, "no row was preempted"
    assert stats.prompt_tokens <= sum(len(row.prompt) for row in rows) - first + 4


async def test_bytes_are_those_that_the_device_holds_and_come_back(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """FACTS 4, case 6: no kept block keeps a row's caches alive, and forgetting frees them."""
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        await bench.ask(bench.row("b8", prompt(bench, 7)))
        bench.engine.forget(bench.revisions["b8"])
        await bench.ask(bench.row(None, [1, 2]))
        before = active_memory() - bench.engine.stats().prefix_cache_bytes
        rows = [bench.row(None, prompt(bench, 8, 40 + number)) for number in range(3)]
        rows += [bench.row("c16", prompt(bench, 8, 50 + number)) for number in range(3)]
        await asyncio.gather(*(bench.ask(row) for row in rows))
        stats = bench.engine.stats()
        kept = active_memory() - before
        assert stats.prefix_cache_bytes > 1 << 20
        adapters = stats.resident_bytes + stats.mixture_bytes
        assert kept - stats.prefix_cache_bytes < adapters + (1 << 18)
        bench.engine.forget(bench.revisions["c16"])
        await bench.ask(bench.row(None, [1, 2]))
        assert bench.engine.stats().prefix_cache_bytes < 0.6 * stats.prefix_cache_bytes
        assert active_memory() - before < 0.6 * kept


async def test_a_forgotten_revision_leaves_nothing_even_while_a_row_runs_on_it(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Nobody will ask for it again."""
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        events = bench.engine.submit(bench.row("b8", prompt(bench, 9), max_tokens=100))
        await anext(events)
        bench.engine.forget(bench.revisions["b8"])
        assert len([event async for event in events]) == 100
        assert bench.engine.stats().prefix_cache_bytes == 0


async def test_the_budget_holds_and_answers_stay_right(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Where a prompt does not fit, its beginning is kept."""
    async with running(tiny_model, tiny_adapters, WARM) as bench:
        await bench.ask(bench.row(None, prompt(bench, 10)))
        one = bench.engine.stats().prefix_cache_bytes
    small = replace(WARM, prefix_cache_bytes=one * 2 // 3)
    async with running(tiny_model, tiny_adapters, small) as bench:
        rows = [bench.row(name, prompt(bench, 10)) for name in (None, "a4", "a4", None)]
        answers = [await bench.ask(row) for row in rows]
        together = await asyncio.gather(*(bench.ask(bench.row("b8", row.prompt)) for row in rows))
        stats = bench.engine.stats()
    assert 0 < stats.prefix_cache_bytes <= stats.prefix_cache_budget_bytes == one * 2 // 3
    assert [cached(events) > 0 for events in answers] == [False, False, True, False]
    assert len({tuple(tokens(events)) for events in together}) == 1
    assert tokens(answers[0]) == tokens(answers[3])
    assert tokens(answers[1]) == tokens(answers[2])


async def test_zero_bytes_switch_it_off(tiny_model: Path) -> None:
    """Nothing is kept, nothing found."""
    async with running(tiny_model, {}, COLD) as bench:
        answers = [await bench.ask(bench.row(None, prompt(bench, 11))) for _ in range(2)]
        assert bench.engine.stats().prefix_cache_blocks == 0
    assert [cached(events) for events in answers] == [0, 0]


def test_caches_that_cannot_be_cut_anywhere_are_never_reused() -> None:
    """A sliding window has lost what a shorter prefix would need."""
    sliding: Any = RotatingKVCache
    assert PrefixCache([*blank(1), sliding(max_size=16)], budget_bytes=1 << 20).budget_bytes == 0


@pytest.mark.parametrize("sizes", [[(1, 8, 8)], [(1, 8, 4)], [(2, 8, 8), (1, 4, 8), (2, 8, 8)]])
def test_heads_of_any_shape_come_back_as_they_were(sizes: list[tuple[int, int, int]]) -> None:
    """Keys and values of other widths (MLA), one head, layers that differ: copies every time."""
    before = active_memory()
    prefix = PrefixCache(blank(len(sizes)), budget_bytes=1 << 30)
    sequence = list(range(BLOCK + 9))
    caches, found = blank(len(sizes)), blank(len(sizes))
    for cache, (heads, key, value) in zip(caches, sizes, strict=True):
        cache.update_and_fetch(
            mx.random.normal((1, heads, 5000, key)), mx.random.normal((1, heads, 5000, value))
        )
    assert prefix.keep(Held(caches, 0, 0, len(sequence)), None, sequence)
    assert prefix.fill(found, None, [*sequence[: BLOCK + 3], 7777]) == (BLOCK + 3, None)
    for cache, other in zip(caches, found, strict=True):
        assert other.offset == BLOCK + 3
        assert mx.array_equal(other.keys, cache.keys[..., : BLOCK + 3, :])
        assert mx.array_equal(other.values, cache.values[..., : BLOCK + 3, :])
    del caches, found, cache, other
    assert active_memory() - before <= prefix.nbytes + (1 << 14)


def blank(layers: int) -> list[Any]:
    """Empty caches."""
    cache: Any = KVCache
    return [cache() for _ in range(layers)]
