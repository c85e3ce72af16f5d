"""Mean hidden states: equal to a forward of mlx-lm's, in pieces and beside others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from adapters.base.output_layer import HeadNotFound, OutputLayer
from server.core.errors import NoHiddenState, NonFiniteOutput
from server.core.messages import Event, Failed, Finished, Generate, Pooled
from tests.diverged import write_diverged
from tests.server.engine.rig import LIMITS, QUESTIONS, Bench, running, tokens

pytestmark = pytest.mark.anyio

TEXT = " ".join(QUESTIONS * 2)
PIECES = replace(LIMITS, most_prefill_tokens=16)
"""Every longer prompt takes several pieces."""


def asked(bench: Bench, name: str | None, text: str) -> Generate:
    """A row that wants the mean state of ``text``."""
    row = bench.row(name, bench.tokenizer.encode(text), max_tokens=0)
    return replace(row, pooled=True)


def mean_of(events: list[Event]) -> Any:
    """What the row reports."""
    (report,) = [event for event in events if isinstance(event, Pooled)]
    return np.array(report.mean)


def reference(model: Path, adapter: Path | None, prompt: tuple[int, ...]) -> Any:
    """The mean of the inner model's output, by plain mlx-lm in float32."""
    loaded: Any = mlx_lm.load(str(model), adapter_path=None if adapter is None else str(adapter))[0]
    loaded.set_dtype(mx.float32)
    loaded.eval()
    return np.array(loaded.model(mx.array([list(prompt)]))[0].mean(axis=0))


async def test_every_chain_and_the_base_pool_what_mlx_lm_computes(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """All at once, in pieces of a few tokens, beside rows that generate what they do alone."""
    names: list[str | None] = [None, *tiny_adapters]
    async with running(tiny_model, tiny_adapters, PIECES) as bench:
        writing = [bench.row(name, bench.tokenizer.encode(TEXT)) for name in names]
        alone = [tokens(await bench.ask(row)) for row in writing]
        kinds = [(name, text) for name in names for text in (TEXT, QUESTIONS[1])]
        reading = [asked(bench, name, text) for name, text in kinds]
        beside = [replace(row, request_id=f"{row.request_id}-beside") for row in writing]
        found = await asyncio.gather(*(bench.ask(row) for row in [*reading, *beside]))
    for (name, _), row, events in zip(kinds, reading, found, strict=False):
        adapter = None if name is None else tiny_adapters[name]
        expected = reference(tiny_model, adapter, row.prompt)
        np.testing.assert_allclose(mean_of(events), expected, atol=1e-3)
    assert [tokens(events) for events in found[len(reading) :]] == alone


async def test_a_kept_prefix_neither_helps_nor_changes_a_mean(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Every token's state is needed, so every token is computed, and nothing is kept of it."""
    long = TEXT * 3
    async with running(tiny_model, tiny_adapters) as bench:
        cold = mean_of(await bench.ask(asked(bench, None, long)))
        assert bench.engine.stats().prefix_cache_blocks == 0
        await bench.ask(bench.row(None, bench.tokenizer.encode(long)))
        assert bench.engine.stats().prefix_cache_blocks > 0
        events = await bench.ask(asked(bench, None, long))
    assert isinstance(events[-1], Finished)
    assert events[-1].cached_tokens == 0
    np.testing.assert_allclose(mean_of(events), cold, atol=1e-4)


async def test_a_diverged_adapter_ends_its_row_and_no_other(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """What is not a number is no embedding."""
    write_diverged(tmp_path / "diverged", tiny_adapters["c16"])
    adapters = {**tiny_adapters, "diverged": tmp_path / "diverged"}
    async with running(tiny_model, adapters) as bench:
        bad, good = await asyncio.gather(
            bench.ask(asked(bench, "diverged", TEXT)), bench.ask(asked(bench, "a4", TEXT))
        )
    assert isinstance(bad[-1], Failed)
    assert isinstance(bad[-1].error, NonFiniteOutput)
    assert np.isfinite(mean_of(good)).all()


async def test_a_model_whose_states_cannot_be_reached_says_so_and_generates_on(
    tiny_model: Path, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row that asks for them fails alone."""

    def find(_: OutputLayer) -> Any:
        raise HeadNotFound

    monkeypatch.setattr(OutputLayer, "find", find)
    async with running(tiny_model, tiny_adapters) as bench:
        for name in (None, "a4"):
            (event,) = await bench.ask(asked(bench, name, TEXT))
            assert isinstance(event, Failed)
            assert isinstance(event.error, NoHiddenState)
        assert len(tokens(await bench.run("a4", 0))) == 24
