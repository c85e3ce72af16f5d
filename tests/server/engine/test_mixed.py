"""Rows of several chains and of the base in one batch: each gets what it gets alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.base.load import load_base
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import BaseError
from adapters.formats.mlx_lm import read_adapter, write_adapter
from adapters.formats.revision import revision_id
from server.core.errors import AdapterUnavailable, NonFiniteOutput
from server.core.messages import Event, Failed, Finished, Generate, Sampling, Token
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from tests.directory_adapters import DirectoryAdapters
from tests.diverged import write_diverged
from tests.equality import assert_same_tokens, solo_greedy

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
QUESTIONS = ("What is a rudder?", "Who waters the garden at noon?", "Tell me about bread.")


class Bench:
    """An engine on the tiny model, and rows by adapter name."""

    def __init__(self, model: Path, adapters: dict[str, Path], limits: Limits) -> None:
        self.tokenizer = load_tokenizer(model)
        self.revisions = {name: revision_id(read_adapter(path)) for name, path in adapters.items()}
        directories = {self.revisions[name]: path for name, path in adapters.items()}

        def load() -> LoadedModel:
            base = load_base(model)
            return LoadedModel(base.model, self.tokenizer.vocab_size, base.compute.dtype)

        self.engine = MlxEngine(load, limits, DirectoryAdapters(directories))
        self._count = 0

    async def run(self, name: str | None, number: int, *, temperature: float = 0.0) -> list[Event]:
        """Every event of one row of 24 tokens."""
        self._count += 1
        prompt = self.tokenizer.encode(QUESTIONS[number % len(QUESTIONS)])
        request = Generate(
            request_id=f"row-{self._count}",
            prompt=tuple(prompt),
            max_tokens=24,
            sampling=Sampling(seed=number, temperature=temperature),
            end_tokens=frozenset(),
            revision=None if name is None else self.revisions[name],
            flow=name or "",
        )
        return [event async for event in self.engine.submit(request)]


def tokens(events: list[Event]) -> list[int]:
    """The tokens of a row that ended as it should."""
    assert isinstance(events[-1], Finished), events[-1]
    return [event.token for event in events if isinstance(event, Token)]


@asynccontextmanager
async def running(
    model: Path, adapters: dict[str, Path], limits: Limits = LIMITS
) -> AsyncIterator[Bench]:
    """A started engine, stopped at the end and found whole."""
    bench = Bench(model, adapters, limits)
    await bench.engine.start()
    try:
        yield bench
        assert bench.engine.stats().integrity == "ok"
    finally:
        await bench.engine.stop(grace_s=0)


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
