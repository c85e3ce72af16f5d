"""What every implementation of the Engine port promises of rows that report their prompts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from server.core.messages import (
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    Token,
    TokenLogprobs,
)
from tests.conformance.harness import Harness, drain, eventually, row, rows_in, running, tokens

pytestmark = pytest.mark.anyio


def reported(events: list[Event]) -> list[TokenLogprobs]:
    """All that was reported of the prompt."""
    return [one for each in events if isinstance(each, PromptLogprobs) for one in each.logprobs]


@pytest.mark.parametrize("alternatives", [0, 3])
async def test_a_prompt_is_reported_before_what_follows_it(
    harness: Harness, alternatives: int
) -> None:
    """Each token but the first, with as many alternatives as asked for, best first."""
    request = row(harness, max_tokens=4, prompt_logprobs=alternatives)
    async with running(harness) as engine:
        events = await drain(engine.submit(request))
    kinds = [type(event) for event in events]
    assert kinds == [PromptLogprobs] * kinds.count(PromptLogprobs) + [Token] * 4 + [Finished]
    found = reported(events)
    assert len(found) == len(request.prompt) - 1
    for one in found:
        values = [value for _, value in one.top]
        assert len(values) == alternatives
        assert values == sorted(values, reverse=True)
        assert one.logprob <= 0


async def test_a_report_of_the_prompt_changes_no_token(harness: Harness) -> None:
    """It is read off what is computed anyway."""
    async with running(harness) as engine:
        plain = row(harness)
        free = await tokens(engine, plain)
        asked = replace(plain, request_id="asked", prompt_logprobs=1)
        assert await tokens(engine, asked) == free


@pytest.mark.parametrize("alternatives", [None, 1])
async def test_a_row_without_tokens_to_generate_reads_its_prompt_and_ends_by_length(
    harness: Harness, alternatives: int | None
) -> None:
    """Scoring a text costs no decode step."""
    request = row(harness, max_tokens=0, prompt_logprobs=alternatives)
    async with running(harness) as engine:
        *events, last = await drain(engine.submit(request))
        assert engine.stats().generated_tokens == 0
        await eventually(lambda: rows_in(engine) == 0)
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens) == (FinishReason.LENGTH, 0)
    assert last.prompt_tokens == len(request.prompt)
    wanted = 0 if alternatives is None else len(request.prompt) - 1
    assert len(reported(events)) == wanted


async def test_a_prompt_of_one_token_has_nothing_to_report(harness: Harness) -> None:
    """Nothing comes before it."""
    request = replace(row(harness, prompt_logprobs=2), prompt=harness.prompt(0)[:1])
    async with running(harness) as engine:
        for most in (2, 0):
            one = replace(request, request_id=f"one-{most}", max_tokens=most)
            events = await drain(engine.submit(one))
            assert reported(events) == []
            assert [type(event) for event in events] == [Token] * most + [Finished]


async def test_rows_with_and_without_a_report_run_together_as_alone(harness: Harness) -> None:
    """Neither kind disturbs the other, of the base or of an adapter."""
    kinds = [
        (number, revision, asked)
        for number in range(2)
        for revision in (None, harness.revision)
        for asked in (None, 2)
    ]
    requests = [
        row(harness, number, revision=revision, prompt_logprobs=asked)
        for number, revision, asked in kinds
    ]
    async with running(harness) as engine:
        alone = [await tokens(engine, request) for request in requests]
        again = [replace(request, request_id=f"{request.request_id}-again") for request in requests]
        together = await asyncio.gather(*(drain(engine.submit(request)) for request in again))
    for (_, _, asked), request, expected, events in zip(
        kinds, requests, alone, together, strict=True
    ):
        assert [event.token for event in events if isinstance(event, Token)] == expected
        assert len(reported(events)) == (0 if asked is None else len(request.prompt) - 1)


async def test_cancelling_ends_a_row_that_reports(harness: Harness) -> None:
    """Its reader may go away while a long prompt is read."""
    async with running(harness) as engine:
        harness.hold()
        request = row(harness, prompt_logprobs=1)
        events = engine.submit(request)
        engine.cancel(request.request_id)
        harness.release()
        last = (await drain(events))[-1]
        await eventually(lambda: rows_in(engine) == 0)
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
