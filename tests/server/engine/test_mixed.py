"""Rows of several chains and of the base in one batch: each gets what it gets alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.base.load import load_base
from adapters.errors import BaseError
from adapters.formats.mlx_lm import read_adapter, write_adapter
from server.core.errors import AdapterUnavailable, NonFiniteOutput, QueueFull
from server.core.messages import Failed
from server.engine.device import LoadedModel
from server.engine.engine import MlxEngine
from tests.directory_adapters import DirectoryAdapters
from tests.diverged import write_diverged
from tests.equality import assert_same_tokens, solo_greedy
from tests.server.engine.rig import LIMITS, QUESTIONS, running, tokens

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_rows_of_every_rank_and_of_the_base_draw_together_what_they_draw_alone(
    tiny_model: Path, tiny_adapters: dict[str, Path], temperature: float
) -> None:
    """Ranks 4, 8 and 16 with different targets, staggered, greedy and seeded."""
    names: list[str | None] = [None, *tiny_adapters, None, *tiny_adapters]
    async with running(tiny_model, tiny_adapters) as bench:
        alone = [
            tokens(await bench.run(name, index, temperature=temperature))
            for index, name in enumerate(names)
        ]
        together = await asyncio.gather(
            *(bench.run(name, index, temperature=temperature) for index, name in enumerate(names))
        )
        assert [tokens(events) for events in together] == alone


async def test_what_is_served_equals_mlx_lm_on_the_same_directories(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """The reference is ``mlx_lm.load(adapter_path=...)``, one row at a time, without our engine."""
    names: list[str | None] = [None, *tiny_adapters]
    async with running(tiny_model, tiny_adapters) as bench:
        found = await asyncio.gather(
            *(bench.run(name, number) for name in names for number in range(len(QUESTIONS)))
        )
        prompts = [bench.tokenizer.encode(question) for question in QUESTIONS]
    reference = [
        solo_greedy(tiny_model, None if name is None else tiny_adapters[name], prompt, 24)
        for name in names
        for prompt in prompts
    ]
    assert_same_tokens(
        [solo.tokens for solo in reference],
        [tokens(events) for events in found],
        [solo.margins for solo in reference],
    )


async def test_a_base_that_cannot_be_loaded_says_why_at_the_start(tmp_path: Path) -> None:
    """The operator's mistake is no failure of the device: its own error, not a restart."""

    def load() -> LoadedModel:
        return LoadedModel(load_base(tmp_path).model, 1, "float32")

    engine = MlxEngine(load, LIMITS, DirectoryAdapters({}))
    with pytest.raises(BaseError, match="holds no model"):
        await engine.start()
    assert engine.stats().state == "stopped"
    await engine.stop(grace_s=0)


async def test_base_a_b_a_each_equal_their_cold_run(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """No row is answered from another chain's cache, and the adapters do differ."""
    async with running(tiny_model, tiny_adapters) as bench:
        order: list[str | None] = [None, "b8", "c16", "b8", None]
        answers = [tokens(await bench.run(name, 0)) for name in order]
    assert answers[0] == answers[4]
    assert answers[1] == answers[3]
    assert len({tuple(answer) for answer in answers}) == 3


async def test_more_adapters_than_fit_are_served_by_turns(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Eviction changes no answer, and the budget holds."""
    async with running(tiny_model, tiny_adapters) as bench:
        alone = {name: tokens(await bench.run(name, 0)) for name in tiny_adapters}
        one = max(read_adapter(path).nbytes for path in tiny_adapters.values())
    small = replace(LIMITS, adapter_budget_bytes=one)
    async with running(tiny_model, tiny_adapters, small) as bench:
        names = [*tiny_adapters] * 2
        found = await asyncio.gather(*(bench.run(name, 0) for name in names))
        assert [tokens(events) for events in found] == [alone[name] for name in names]
        stats = bench.engine.stats()
        assert stats.adapter_evictions > 0
        assert stats.resident_bytes <= one


async def test_rows_beyond_the_kv_budget_are_preempted_and_lose_nothing(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """The youngest row gives way, is computed again, and draws the same tokens."""
    async with running(tiny_model, tiny_adapters) as bench:
        alone = [tokens(await bench.run("a4", index)) for index in range(4)]
    tight = replace(LIMITS, kv_budget_tokens=96, reserve_tokens=1)
    async with running(tiny_model, tiny_adapters, tight) as bench:
        found = await asyncio.gather(*(bench.run("a4", index) for index in range(4)))
        assert [tokens(events) for events in found] == alone


async def test_an_adapter_that_matches_no_module_is_refused_and_nobody_else_notices(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Never the base's answer; rows beside it go on."""
    good = read_adapter(tiny_adapters["a4"])
    foreign = {f"other.{name}": pair for name, pair in good.tensors.items()}
    write_adapter(tmp_path / "foreign", type(good)(good.shape, foreign))
    adapters = {**tiny_adapters, "foreign": tmp_path / "foreign"}
    async with running(tiny_model, adapters) as bench:
        alone = tokens(await bench.run("b8", 1))
        bad, beside = await asyncio.gather(bench.run("foreign", 0), bench.run("b8", 1))
    assert isinstance(bad[-1], Failed)
    assert isinstance(bad[-1].error, AdapterUnavailable)
    assert "no module matches" in str(bad[-1].error)
    assert tokens(beside) == alone


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_diverged_adapter_is_an_error_and_nobody_else_notices(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path, temperature: float
) -> None:
    """Its values are finite, its products overflow: garbage would be worse than no answer."""
    write_diverged(tmp_path / "diverged", tiny_adapters["c16"])
    adapters = {**tiny_adapters, "diverged": tmp_path / "diverged"}
    async with running(tiny_model, adapters) as bench:
        alone = tokens(await bench.run("b8", 1, temperature=temperature))
        bad, beside = await asyncio.gather(
            bench.run("diverged", 0, temperature=temperature),
            bench.run("b8", 1, temperature=temperature),
        )
    (failed,) = bad
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NonFiniteOutput)
    assert "after 0 tokens: its training diverged" in str(failed.error)
    assert tokens(beside) == alone


async def test_rows_that_need_more_memory_than_may_wait_are_refused_at_once(
    tiny_model: Path,
) -> None:
    """The device did not even look; once the rows before it have ended it is welcome."""
    limits = replace(LIMITS, kv_budget_tokens=256, queue_kv_factor=0)
    async with running(tiny_model, {}, limits) as bench:
        first, second = (bench.row(None, [5] * 200, max_tokens=2) for _ in range(2))
        events = bench.engine.submit(first)
        with pytest.raises(QueueFull, match="202 tokens"):
            bench.engine.submit(second)
        assert tokens([event async for event in events])
        assert tokens(await bench.ask(second))
        assert bench.engine.stats().row_s >= 0
