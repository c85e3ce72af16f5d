"""What every implementation of the Engine port promises of rows that are pooled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from server.core.messages import Event, Finished, FinishReason, Generate, Pooled
from tests.conformance.harness import Harness, drain, eventually, row, rows_in, running, tokens

pytestmark = pytest.mark.anyio


def pooled(harness: Harness, number: int = 0, revision: str | None = None) -> Generate:
    """A row that is read and not continued."""
    return row(harness, number, max_tokens=0, revision=revision, pooled=True)


def mean_of(events: list[Event]) -> tuple[float, ...]:
    """What such a row reports, and nothing beside it."""
    assert [type(event) for event in events] == [Pooled, Finished]
    report, end = events
    assert isinstance(report, Pooled)
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == (FinishReason.LENGTH, 0)
    return report.mean


async def test_a_pooled_row_reports_one_mean_and_generates_nothing(harness: Harness) -> None:
    """The same for the same prompt, in a row of one token too."""
    whole = pooled(harness)
    one = replace(pooled(harness), prompt=whole.prompt[:1])
    async with running(harness) as engine:
        first = mean_of(await drain(engine.submit(whole)))
        again = mean_of(await drain(engine.submit(replace(whole, request_id="again"))))
        short = mean_of(await drain(engine.submit(one)))
        assert engine.stats().generated_tokens == 0
        await eventually(lambda: rows_in(engine) == 0)
    assert first == again
    assert len(short) == len(first)
    assert short != first


async def test_prompts_and_revisions_have_means_of_their_own(harness: Harness) -> None:
    """A chain embeds a text as what it has learned, not as its base."""
    requests = [
        pooled(harness, number, revision)
        for number in range(2)
        for revision in (None, harness.revision)
    ]
    async with running(harness) as engine:
        found = [mean_of(await drain(engine.submit(request))) for request in requests]
    assert len(set(found)) == 4


async def test_rows_that_are_pooled_and_rows_that_generate_run_together_as_alone(
    harness: Harness,
) -> None:
    """Of the base and of an adapter, whatever shares a piece of prefill."""
    kinds = [(number, revision) for number in range(2) for revision in (None, harness.revision)]
    reading = [pooled(harness, *kind) for kind in kinds]
    writing = [row(harness, number, revision=revision) for number, revision in kinds]
    async with running(harness, max_rows=8) as engine:
        means = [mean_of(await drain(engine.submit(request))) for request in reading]
        texts = [await tokens(engine, request) for request in writing]
        again = [
            replace(request, request_id=f"{request.request_id}-again")
            for pair in zip(reading, writing, strict=True)
            for request in pair
        ]
        found = await asyncio.gather(*(drain(engine.submit(request)) for request in again))
    for index, (mean, text) in enumerate(zip(means, texts, strict=True)):
        np.testing.assert_allclose(mean_of(found[2 * index]), mean, atol=1e-4)
        written = [getattr(event, "token", None) for event in found[2 * index + 1][:-1]]
        assert written == text


async def test_cancelling_ends_a_row_that_is_pooled(harness: Harness) -> None:
    """Its reader may go away while a long prompt is read."""
    async with running(harness) as engine:
        harness.hold()
        request = pooled(harness)
        events = engine.submit(request)
        engine.cancel(request.request_id)
        harness.release()
        last = (await drain(events))[-1]
        await eventually(lambda: rows_in(engine) == 0)
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
