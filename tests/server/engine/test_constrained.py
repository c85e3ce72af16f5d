"""Constrained rows in the engine: how they are drawn, forced ahead, preempted and reported."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import mlx.core as mx
import pytest
from hypothesis import given, settings

from server.core.constraints import choice, json_schema
from server.core.errors import InvalidRequest
from server.core.messages import (
    Constraint,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Sampling,
    Token,
)
from server.engine.masks import FREE, Guide
from server.engine.sampling import BatchSampler, SamplingRow
from tests.schemas import SCHEMAS
from tests.server.engine.rig import LIMITS, Bench, running, tokens

pytestmark = pytest.mark.anyio

WARM = Sampling(seed=5, temperature=1.0)
LONG_NAMES = {
    "type": "object",
    "properties": {
        "the first of two long names": {"type": "boolean"},
        "the second of two long names": {"type": "boolean"},
    },
    "required": ["the first of two long names", "the second of two long names"],
    "additionalProperties": False,
}


def text(bench: Bench, events: list[Event]) -> str:
    """What a row that ended as it should says."""
    detokenizer = bench.tokenizer.detokenizer()
    return "".join([*map(detokenizer.add, tokens(events)), detokenizer.finish()])


def row(bench: Bench, constraint: Constraint, sampling: Sampling = WARM, **fields: Any) -> Generate:
    """A row of the base with ``constraint``."""
    request = bench.row(None, bench.tokenizer.encode("Say it:"), sampling, max_tokens=96)
    return replace(request, constraint=constraint, **fields)


def test_whatever_the_tiny_model_draws_for_a_schema_is_valid_or_cut(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """At temperature 1, for base and chain in one batch."""
    with asyncio.Runner() as runner:

        async def enter() -> tuple[Any, Bench]:
            context = running(tiny_model, tiny_adapters)
            return context, await context.__aenter__()

        context, bench = runner.run(enter())
        engine = bench.engine

        async def both(schema: dict[str, Any]) -> list[list[Event]]:
            request = row(bench, json_schema(schema))
            chained = row(bench, json_schema(schema), revision=bench.revisions["b8"])
            return list(await asyncio.gather(bench.ask(request), bench.ask(chained)))

        @settings(max_examples=12, deadline=None)
        @given(schema=SCHEMAS)
        def check(schema: dict[str, Any]) -> None:
            try:
                engine.check(json_schema(schema))
            except InvalidRequest as refused:
                assert "nsatisfiable" in str(refused)  # noqa: PT017
                return
            for events in runner.run(both(schema)):
                last = events[-1]
                assert isinstance(last, Finished)
                if last.reason is FinishReason.STOP:
                    jsonschema.Draft202012Validator(schema).validate(
                        json.loads(text(bench, events))
                    )

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def test_forced_tokens_are_computed_several_at_a_step(tiny_model: Path) -> None:
    """With the same text as one by one, and the same seed."""
    found, steps = [], []
    for several in (False, True):
        limits = replace(LIMITS, speculate=several)
        async with running(tiny_model, {}, limits) as bench:
            found.append(tokens(await bench.ask(row(bench, json_schema(LONG_NAMES)))))
            steps.append(bench.engine.stats().steps)
    assert found[0] == found[1]
    assert steps[1] < steps[0] * 0.7


async def test_a_preempted_row_goes_on_in_its_text(tiny_model: Path) -> None:
    """Its matcher is where its tokens are."""
    async with running(tiny_model, {}) as bench:
        requests = [row(bench, json_schema(LONG_NAMES), replace(WARM, seed=n)) for n in range(4)]
        alone = [tokens(await bench.ask(request)) for request in requests]
    tight = replace(LIMITS, kv_budget_tokens=160, reserve_tokens=1)
    async with running(tiny_model, {}, tight) as bench:
        found = await asyncio.gather(*(bench.ask(request) for request in requests))
    assert [tokens(events) for events in found] == alone


async def test_probabilities_are_those_of_the_model_without_the_constraint(
    tiny_model: Path,
) -> None:
    """What a constraint excludes still counts, as what top-k excludes does."""
    reported = Sampling(seed=1, temperature=0.0, logprobs=3)
    async with running(tiny_model, {}) as bench:
        free = (await bench.ask(replace(row(bench, choice(["~"]), reported), constraint=None)))[0]
        held = (await bench.ask(row(bench, choice(["~"]), reported)))[0]
    assert isinstance(free, Token)
    assert isinstance(held, Token)
    assert free.logprobs is not None
    assert held.logprobs is not None
    assert held.token != free.token
    assert [one for one, _ in held.logprobs.top] == [one for one, _ in free.logprobs.top]
    assert held.logprobs.logprob < free.logprobs.logprob


async def test_a_row_that_needs_too_much_work_fails_and_nobody_else_notices(
    tiny_model: Path,
) -> None:
    """Its error names the field; a row beside it goes on."""
    hard = Constraint("regex", "((a{1,100}){1,100}){1,100}", "guided_regex")
    async with running(tiny_model, {}) as bench:
        free = bench.row(None, bench.tokenizer.encode("Say it:"), WARM, max_tokens=96)
        alone = tokens(await bench.ask(free))
        failed, beside = await asyncio.gather(
            bench.ask(row(bench, hard, Sampling(seed=0, temperature=0.0))), bench.ask(free)
        )
    assert isinstance(failed[-1], Failed)
    assert failed[-1].error.param == "guided_regex"
    assert tokens(beside) == alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("extra", [{}, {"logit_bias": ((0, 100.0),)}, {"presence_penalty": 2.0}])
def test_a_guided_draw_takes_what_is_allowed_and_what_is_forced(
    temperature: float, extra: dict[str, Any]
) -> None:
    """Before bias, penalties and filters; the third row is free."""
    sampling = Sampling(seed=1, temperature=temperature, top_k=1, **extra)
    rows = [SamplingRow(sampling, [1], [2])] * 3
    sampler = BatchSampler(rows, 8, mx.array([FREE] * 3))
    logits = mx.broadcast_to(mx.arange(8, dtype=mx.float32), (3, 8))
    allowed = mx.array([[False, False, False, True, True, False, False, False]])
    guide = Guide((0,), allowed, (FREE, 1, FREE))
    drawn, _ = sampler.sample(logits, [0, 0, 0], guide)
    found: Any = drawn.tolist()
    assert found[:2] == [4, 1]
    assert found[2] == (0 if "logit_bias" in extra else 7)
