"""What chains share below their adapted blocks is computed once, and answers are those of alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gemma2, qwen3
from safetensors.numpy import save_file

from adapters.lora import Router
from server.core.messages import Event, Generate, Sampling
from server.engine.cut import Cuts
from server.engine.prefix import BLOCK
from server.engine.rows import Forward
from tests.adapters.training.test_trial import SIZES
from tests.server.engine.rig import LIMITS, Bench, running, tokens
from tests.server.engine.test_prefix import assert_cold, cached, prompt, reference
from tests.server.engine.test_quantized_kv import EIGHT, assert_alike

pytestmark = pytest.mark.anyio

WARM = replace(LIMITS, prefix_cache_bytes=1 << 26)
COLD = replace(LIMITS, prefix_cache_bytes=0)
BLOCKS = 4
"""Of the tiny model. Names of adapters here end with how many of the last ones they adapt."""


def last_blocks(directory: Path, blocks: int, seed: int) -> Path:
    """An adapter on q and v of the tiny model's last blocks, which are four."""
    directory.mkdir()
    noise = np.random.default_rng(seed)
    shapes = {"self_attn.q_proj": (128, 128), "self_attn.v_proj": (128, 64)}
    arrays = {
        f"model.layers.{BLOCKS - 1 - block}.{name}.lora_{part}": noise.normal(
            size=size, scale=0.05
        ).astype(np.float32)
        for block in range(blocks)
        for name, (inputs, outputs) in shapes.items()
        for part, size in (("a", (inputs, 4)), ("b", (4, outputs)))
    }
    save_file(arrays, directory / "adapters.safetensors")
    settings = {"rank": 4, "scale": 10.0, "dropout": 0.0, "keys": list(shapes)}
    config = {"fine_tune_type": "lora", "num_layers": blocks, "lora_parameters": settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def chains(
    tmp_path_factory: pytest.TempPathFactory, tiny_adapters: dict[str, Path]
) -> dict[str, Path]:
    """Eight chains of one cut, one that adapts less, and one that adapts every block."""
    made = tmp_path_factory.mktemp("chains")
    names = {f"{letter}2": 2 for letter in "abcdefgh"} | {"z1": 1}
    found = {
        name: last_blocks(made / name, blocks, seed)
        for seed, (name, blocks) in enumerate(names.items())
    }
    return found | {"all4": tiny_adapters["b8"]}


def solos(model: Path, chains: dict[str, Path], rows: dict[Any, Generate]) -> list[Any]:
    """What plain mlx-lm answers, by adapter name."""
    return [reference(model, chains.get(name or ""), row) for name, row in rows.items()]


async def test_each_chain_after_another_equals_its_cold_run(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """One system prompt of 300 tokens: a chain enters at its cut where one of the same cut was."""
    names: list[str | None] = ["a2", "b2", None, "z1", "all4", "c2"]
    async with running(tiny_model, chains, WARM) as bench:
        rows = {name: bench.row(name, prompt(bench, 1, words=200)[:300]) for name in names}
        answers, shared = [], []
        for row in rows.values():
            before = bench.engine.stats().prefix_cache_shared_tokens
            answers.append(await bench.ask(row))
            shared.append(bench.engine.stats().prefix_cache_shared_tokens - before)
        again = await bench.ask(bench.row("b2", rows["b2"].prompt))
    assert len(rows["a2"].prompt) == 300
    assert shared == [0, 299, 0, 0, 0, 299]
    assert [cached(events) for events in [*answers, again]] == [0, 0, 0, 0, 0, 0, 299]
    assert tokens(again) == tokens(answers[1])
    assert_cold(answers, solos(tiny_model, chains, rows))


async def test_chains_that_arrive_together_compute_the_lower_blocks_once(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """The first computes, the others wait, enter together, and go on with texts of their own."""
    names = [name for name in chains if name.endswith("2")]
    async with running(tiny_model, chains, WARM) as bench:
        system = prompt(bench, 2, words=80)
        rows = {
            name: bench.row(name, [*system, *prompt(bench, 30 + user, words=5 + 4 * user)])
            for user, name in enumerate(names)
        }
        answers = await asyncio.gather(*map(bench.ask, rows.values()))
        stats = bench.engine.stats()
    assert 7 * (len(system) - BLOCK) <= stats.prefix_cache_shared_tokens <= 7 * (len(system) + 8)
    assert not any(map(cached, answers))
    assert_cold(list(answers), solos(tiny_model, chains, rows))


async def test_a_head_that_moves_shares_what_was_prompt(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """Nobody has the residual stream of an answer: the new revision computes from there."""
    async with running(tiny_model, chains, WARM) as bench:
        said = prompt(bench, 3)
        first = await bench.ask(bench.row("a2", said))
        longer = [*said, *tokens(first), *prompt(bench, 31, words=40)]
        old = bench.row("a2", longer)
        answers = [await bench.ask(old)]
        assert cached(answers[0]) == len(said) + 24
        moved = {name: bench.row(name, longer) for name in ("b2", "c2")}
        shared = []
        for row in moved.values():
            answers.append(await bench.ask(row))
            shared.append(bench.engine.stats().prefix_cache_shared_tokens)
    assert shared == [len(said) - 1, len(said) - 1 + len(longer) - 1]
    assert_cold(answers, solos(tiny_model, chains, {"a2": old} | moved))


async def test_chains_share_codes_as_they_share_numbers(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """With a quantized KV, in mixed batches, two caches belong to each block."""
    names: list[str | None] = ["a2", "b2", None, "c2", "all4", "z1", "d2"]
    greedy = Sampling(seed=0, temperature=0.0, logprobs=2)

    def rows(bench: Bench) -> list[Generate]:
        return [bench.row(name, prompt(bench, 4), greedy) for name in names]

    async with running(tiny_model, chains, COLD, EIGHT) as bench:
        alone = [await bench.ask(row) for row in rows(bench)]
    async with running(tiny_model, chains, WARM, EIGHT) as bench:
        found: Sequence[list[Event]] = await asyncio.gather(*map(bench.ask, rows(bench)))
        assert bench.engine.stats().prefix_cache_shared_tokens > 3 * BLOCK
    assert_alike(alone, list(found))


async def test_preempted_rows_of_a_shared_prompt_lose_nothing(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """They begin again from what is kept, wherever it was cut."""
    tight = replace(WARM, kv_budget_tokens=4 * 150, reserve_tokens=1)
    async with running(tiny_model, chains, tight) as bench:
        text = prompt(bench, 5)[:120]
        rows = {name: bench.row(name, text, max_tokens=64) for name in ("a2", "b2", "c2", "d2")}
        answers = await asyncio.gather(*map(bench.ask, rows.values()))
        stats = bench.engine.stats()
    assert stats.prefix_cache_tokens >= 120, "no row was preempted"
    assert stats.prefix_cache_shared_tokens >= 119
    assert_cold(list(answers), solos(tiny_model, chains, rows))


@pytest.mark.parametrize("part", [0.3, 0.8, 1.3])
async def test_answers_stay_right_where_parts_of_a_prefix_have_gone(
    tiny_model: Path, chains: dict[str, Path], part: float
) -> None:
    """Below, above and stream give way one by one; what is left is used as far as it goes."""
    async with running(tiny_model, chains, WARM) as bench:
        await bench.ask(bench.row("a2", prompt(bench, 6)))
        one = bench.engine.stats().prefix_cache_bytes
    small = replace(WARM, prefix_cache_bytes=int(part * one))
    async with running(tiny_model, chains, small) as bench:
        rows = {name: bench.row(name, prompt(bench, 6)) for name in ("a2", "b2", None, "c2", "z1")}
        for _ in range(2):
            answers = await asyncio.gather(*map(bench.ask, rows.values()))
            assert_cold(list(answers), solos(tiny_model, chains, rows))
        stats = bench.engine.stats()
    assert 0 < stats.prefix_cache_bytes <= stats.prefix_cache_budget_bytes


async def test_a_forgotten_revision_leaves_what_is_of_the_base_alone(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """Its upper blocks go; what others share stays within the budget, and they find it."""
    async with running(tiny_model, chains, WARM) as bench:
        await bench.ask(bench.row("a2", prompt(bench, 7)))
        before = bench.engine.stats().prefix_cache_bytes
        bench.engine.forget(bench.revisions["a2"])
        row = bench.row("b2", prompt(bench, 7), max_tokens=1)
        answer = await bench.ask(row)
        stats = bench.engine.stats()
    assert stats.prefix_cache_shared_tokens == len(row.prompt) - 1
    assert stats.prefix_cache_bytes <= before
    assert_cold([answer], solos(tiny_model, chains, {"b2": row}))


async def test_without_kept_prefixes_nothing_is_shared(
    tiny_model: Path, chains: dict[str, Path]
) -> None:
    """One switch for both."""
    async with running(tiny_model, chains, COLD) as bench:
        for name in ("a2", "b2"):
            await bench.ask(bench.row(name, prompt(bench, 8)))
        assert bench.engine.stats().prefix_cache_shared_tokens == 0


@pytest.mark.parametrize("family", [qwen3, gemma2])
def test_other_families_can_be_entered_too(family: Any) -> None:
    """What comes before and behind the blocks is the model's own."""
    assert Cuts.of(forward_of(family, {"query_pre_attn_scalar": 8.0})) is not None


def forward_of(family: Any, more: dict[str, Any]) -> Forward:
    """A small model of a family, without adapters."""
    mx.random.seed(0)
    model = family.Model(family.ModelArgs.from_dict(SIZES | {"model_type": "x"} | more))
    mx.eval(model.parameters())
    return Forward(model, Router(model), SIZES["vocab_size"])


class Leaky(qwen3.Model):
    """A model whose last block sees what lies below its own input."""

    def __call__(self, inputs: mx.array, cache: Any = None, input_embeddings: Any = None) -> Any:
        """Logits that depend on the first block's cache."""
        logits = super().__call__(inputs, cache, input_embeddings)
        return logits + 100 * cache[0].keys.mean()


def test_a_model_that_looks_past_its_residual_stream_is_never_entered() -> None:
    """Found out on the model, by its numbers."""
    model = type("Family", (), {"Model": Leaky, "ModelArgs": qwen3.ModelArgs})
    assert Cuts.of(forward_of(model, {})) is None
