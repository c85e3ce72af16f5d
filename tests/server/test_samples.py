"""A stage that still trains answers prompts through the serving engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.base.load import load_base
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import DeviceGone, StageError
from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.formats.revision import revision_id
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from server.samples import Candidates, EngineSampler
from tests.directory_adapters import DirectoryAdapters
from tests.equality import solo_greedy

LIMITS = Limits(
    max_rows=4,
    prefill_rows=4,
    prefill_block_s=0.05,
    queue_limit=8,
    event_queue_limit=512,
    adapter_budget_bytes=1 << 26,
    kv_budget_tokens=1 << 12,
    prefix_cache_bytes=1 << 24,
)
PROMPT = "What is a rudder?"


@pytest.fixture
def candidates(tiny_adapters: dict[str, Path]) -> Candidates:
    """In front of one published adapter."""
    directory = tiny_adapters["a4"]
    return Candidates(DirectoryAdapters({revision_id(read_adapter(directory)): directory}))


def test_a_candidate_is_read_while_it_is_held_and_forgotten_afterwards(
    candidates: Candidates, tiny_adapters: dict[str, Path]
) -> None:
    """Its name is never used again, and it does not count as registered."""
    files = read_adapter(tiny_adapters["b8"])
    forgotten: list[str] = []
    with candidates.hold(files, forgotten.append) as first:
        assert candidates.read(first) is files
        assert candidates.registered() == 1
    with candidates.hold(files, forgotten.append) as second:
        assert second != first
    assert forgotten == [first, second]
    with pytest.raises(KeyError):
        candidates.read(first)


def test_samples_are_what_the_adapter_answers_and_leave_nothing_behind(
    candidates: Candidates, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """The base's and the candidate's greedy answers, and no adapter stays resident."""
    tokenizer = load_tokenizer(tiny_model)

    def load() -> LoadedModel:
        base = load_base(tiny_model)
        return LoadedModel(base.model, tokenizer.vocab_size, base.compute.dtype)

    engine = MlxEngine(load, LIMITS, candidates)

    def ask(sampler: EngineSampler, files: AdapterFiles | None) -> str:
        return sampler.answer(PROMPT, files, max_tokens=16)

    async def scenario() -> tuple[str, str]:
        await engine.start()
        loop = asyncio.get_running_loop()
        sampler = EngineSampler(engine, tokenizer, candidates, engine.forget, lambda: loop)
        try:
            base = await asyncio.to_thread(ask, sampler, None)
            files = read_adapter(tiny_adapters["b8"])
            return base, await asyncio.to_thread(ask, sampler, files)
        finally:
            await engine.stop(grace_s=0)
            with pytest.raises(DeviceGone):
                await asyncio.to_thread(ask, sampler, None)

    answers = asyncio.run(scenario())
    prompt = tokenizer.encode_chat([{"role": "user", "content": PROMPT}], template_kwargs={})
    for found, adapter in zip(answers, (None, tiny_adapters["b8"]), strict=True):
        tokens = solo_greedy(tiny_model, adapter, prompt, 16).tokens
        text = tokenizer.detokenizer()
        expected = ""
        for token in tokens:
            if token in tokenizer.end_tokens:
                break
            expected += text.add(token)
        assert found == expected + text.finish()
    stats = engine.stats()
    assert (stats.adapter_loads, stats.resident_adapters, stats.integrity) == (1, 0, "ok")


def test_a_sample_is_given_up_when_the_stage_is_to_stop(
    candidates: Candidates, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """A long answer holds up neither a cancellation nor the end of the process."""
    tokenizer = load_tokenizer(tiny_model)

    def load() -> LoadedModel:
        base = load_base(tiny_model)
        return LoadedModel(base.model, tokenizer.vocab_size, base.compute.dtype)

    engine = MlxEngine(load, LIMITS, candidates)

    async def scenario() -> None:
        await engine.start()
        loop = asyncio.get_running_loop()
        sampler = EngineSampler(engine, tokenizer, candidates, engine.forget, lambda: loop)
        # Only a row without an end could last until the question is asked.
        sampler._tokenizer = SimpleNamespace(
            encode_chat=tokenizer.encode_chat,
            max_context=tokenizer.max_context,
            detokenizer=tokenizer.detokenizer,
            end_tokens=frozenset(),
        )
        files = read_adapter(tiny_adapters["b8"])
        try:
            with pytest.raises(StageError, match="asked to stop"):
                await asyncio.to_thread(
                    sampler.answer, PROMPT, files, max_tokens=1000, should_stop=lambda: True
                )
        finally:
            await engine.stop(grace_s=30)

    asyncio.run(scenario())
    stats = engine.stats()
    assert (stats.resident_adapters, stats.integrity) == (0, "ok")


def test_a_sample_prompt_that_does_not_fit_says_both_numbers(
    candidates: Candidates, tiny_model: Path
) -> None:
    """The stage goes on without it; the engine is not asked."""
    tokenizer = load_tokenizer(tiny_model)

    async def scenario() -> None:
        engine = MlxEngine(lambda: pytest.fail("not started"), LIMITS, candidates)
        loop = asyncio.get_running_loop()
        sampler = EngineSampler(engine, tokenizer, candidates, engine.forget, lambda: loop)
        long = "rudder " * tokenizer.max_context
        with pytest.raises(StageError, match=str(tokenizer.max_context)):
            await asyncio.to_thread(sampler.answer, long, None, max_tokens=4)

    asyncio.run(scenario())
