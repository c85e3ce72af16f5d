"""Probabilities of a prompt's tokens: equal to a forward of mlx-lm's, whoever else is served."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from server.core.errors import NonFiniteOutput
from server.core.messages import (
    Event,
    Failed,
    Generate,
    PromptLogprobs,
    Token,
    TokenLogprobs,
)
from server.engine import prefill, report
from server.engine.report import prompt_logprobs
from tests.diverged import write_diverged
from tests.equality import Logprobs, assert_equal, solo_logprobs
from tests.server.engine.rig import LIMITS, QUESTIONS, Bench, running, tokens

pytestmark = pytest.mark.anyio

TEXT = " ".join(QUESTIONS * 2)
PIECES = replace(LIMITS, most_prefill_tokens=16)
"""Every prompt takes several pieces."""


def asked(bench: Bench, name: str | None, text: str, *, alternatives: int | None) -> Generate:
    """A row that reads ``text`` and generates four tokens."""
    row = bench.row(name, bench.tokenizer.encode(text), max_tokens=4)
    return replace(row, prompt_logprobs=alternatives)


def reported(events: list[Event]) -> list[TokenLogprobs]:
    """All that was reported of a prompt."""
    return [one for each in events if isinstance(each, PromptLogprobs) for one in each.logprobs]


def distributions(found: list[TokenLogprobs], vocabulary: int) -> Logprobs:
    """Reports of every token of the vocabulary as rows."""
    rows = np.full((len(found), vocabulary), np.nan, np.float32)
    for row, one in zip(rows, found, strict=True):
        for token, value in one.top:
            row[token] = value
    return rows


@pytest.mark.parametrize("memory", [1 << 26, 1 << 14], ids=["", "short pieces"])
async def test_every_chain_and_the_base_report_what_mlx_lm_computes(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    memory: int,
) -> None:
    """All in one batch, beside rows without a report, prompts in pieces of a few tokens."""
    monkeypatch.setattr(prefill, "_LOGITS_BYTES", memory)
    monkeypatch.setattr(report, "_SLICE_BYTES", memory // 8)
    names: list[str | None] = [None, *tiny_adapters]
    texts = [TEXT, QUESTIONS[1]]
    async with running(tiny_model, tiny_adapters, PIECES) as bench:
        size = bench.tokenizer.vocab_size
        plain = [asked(bench, name, TEXT, alternatives=None) for name in names]
        alone = [tokens(await bench.ask(request)) for request in plain]
        kinds = [(name, text) for name in names for text in texts]
        requests = [asked(bench, name, text, alternatives=size) for name, text in kinds]
        beside = [replace(each, request_id=f"{each.request_id}-beside") for each in plain]
        found = await asyncio.gather(*(bench.ask(each) for each in [*requests, *beside]))
    for (name, _), request, events in zip(kinds, requests, found, strict=False):
        adapter = None if name is None else tiny_adapters[name]
        reference = solo_logprobs(tiny_model, adapter, request.prompt)[:-1]
        ours = reported(events)
        assert_equal(reference, distributions(ours, size))
        chosen = np.array([one.logprob for one in ours], np.float32)
        exact = reference[np.arange(len(ours)), request.prompt[1:]]
        assert np.abs(chosen - exact).max() <= 1e-3
    assert [tokens(events) for events in found[len(requests) :]] == alone


async def test_a_report_counts_no_time_against_prompts_without_one(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """The pace of prefill is what the others are served by."""
    async with running(tiny_model, tiny_adapters) as bench:
        before = bench.engine.stats().prefill_tokens_per_s
        await bench.ask(asked(bench, None, TEXT, alternatives=5))
        assert bench.engine.stats().prefill_tokens_per_s == before
        await bench.ask(asked(bench, None, f"Then: {TEXT}", alternatives=None))
        assert bench.engine.stats().prefill_tokens_per_s != before


async def test_a_row_that_was_put_back_reports_its_prompt_once(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Preemption computes the prompt again; its reader has the report already."""
    tight = replace(LIMITS, kv_budget_tokens=96, reserve_tokens=1)
    async with running(tiny_model, tiny_adapters, tight) as bench:
        rows = [
            replace(asked(bench, "a4", QUESTIONS[number % 3], alternatives=1), max_tokens=24)
            for number in range(4)
        ]
        alone = [await bench.ask(replace(row, request_id=f"{row.request_id}-")) for row in rows]
        found = await asyncio.gather(*(bench.ask(row) for row in rows))
    for row, first, again in zip(rows, alone, found, strict=True):
        assert len(reported(again)) == len(row.prompt) - 1
        assert tokens(again) == tokens(first)
        kinds = [type(event) for event in again]
        assert kinds.index(Token) == kinds.count(PromptLogprobs)


async def test_a_diverged_adapter_ends_its_row_and_no_other(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """What is not a number is no probability."""
    write_diverged(tmp_path / "diverged", tiny_adapters["c16"])
    adapters = {**tiny_adapters, "diverged": tmp_path / "diverged"}
    async with running(tiny_model, adapters) as bench:
        alone = reported(await bench.ask(asked(bench, "a4", TEXT, alternatives=0)))
        again = replace(asked(bench, "a4", TEXT, alternatives=0), request_id="again")
        bad, good = await asyncio.gather(
            bench.ask(asked(bench, "diverged", TEXT, alternatives=0)),
            bench.ask(again),
        )
    assert isinstance(bad[-1], Failed)
    assert isinstance(bad[-1].error, NonFiniteOutput)
    assert "in the prompt" in str(bad[-1].error)
    assert np.allclose(
        [one.logprob for one in reported(good)], [one.logprob for one in alone], atol=1e-3
    )


def test_a_slice_of_positions_is_what_all_at_once_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on memory changes no number, and a row that is not finite spoils the report."""
    logits = mx.random.normal((11, 50), key=mx.random.key(3))
    wanted = list(range(11))
    whole = prompt_logprobs(logits, wanted, 3)
    monkeypatch.setattr(report, "_SLICE_BYTES", 4 * 50 * 2)
    assert prompt_logprobs(logits, wanted, 3) == whole
    for value in (mx.nan, mx.inf, -mx.inf):
        broken = logits.at[4, 4].add(value)
        assert prompt_logprobs(broken, wanted, 0) is None
