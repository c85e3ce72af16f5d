"""What every implementation of the Engine port promises of the rows that it runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from server.core.messages import Finished, FinishReason, Sampling, Token
from server.core.ports import Events
from tests.conformance.harness import (
    GREEDY,
    Harness,
    drain,
    eventually,
    row,
    rows_in,
    running,
    tokens,
)

pytestmark = pytest.mark.anyio


async def test_tokens_come_first_and_exactly_one_last_event_ends_them(harness: Harness) -> None:
    """The HTTP side stops reading at the last event and must not miss or double it."""
    async with running(harness) as engine:
        *generated, last = await drain(engine.submit(row(harness, max_tokens=5)))
    assert [type(event) for event in generated] == [Token] * 5
    assert isinstance(last, Finished)


async def test_a_row_that_reaches_max_tokens_ends_by_length(harness: Harness) -> None:
    """The client learns that the text was cut."""
    async with running(harness) as engine:
        last = (await drain(engine.submit(row(harness, max_tokens=3))))[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.LENGTH


async def test_usage_counts_the_tokens_that_went_in_and_came_out(harness: Harness) -> None:
    """Usage is what clients are billed by."""
    async with running(harness) as engine:
        request = row(harness, max_tokens=6)
        *generated, last = await drain(engine.submit(request))
    assert isinstance(last, Finished)
    assert last.prompt_tokens == len(request.prompt)
    assert last.completion_tokens == len(generated) == 6
    assert 0 <= last.cached_tokens <= last.prompt_tokens


async def test_an_end_token_ends_the_row_and_is_not_reported(harness: Harness) -> None:
    """The end token is no text."""
    async with running(harness) as engine:
        free = await tokens(engine, row(harness, max_tokens=8))
        events = await drain(engine.submit(row(harness, end_tokens=frozenset({free[3]}))))
    last = events.pop()
    assert [event.token for event in events if isinstance(event, Token)] == free[
        : free.index(free[3])
    ]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.STOP
    assert last.end == Token(free[3])


async def test_an_end_token_is_reported_where_tokens_are(harness: Harness) -> None:
    """It was drawn as they were, though it is no text; a row that ends otherwise has none."""
    asked = replace(GREEDY, logprobs=2)
    async with running(harness) as engine:
        free = await tokens(engine, row(harness, max_tokens=3))
        ended = row(harness, end_tokens=frozenset({free[0]}), sampling=asked)
        (last,) = await drain(engine.submit(ended))
        cut = (await drain(engine.submit(row(harness, max_tokens=3, sampling=asked))))[-1]
    assert isinstance(last, Finished)
    assert last.end is not None
    assert last.end.token == free[0]
    assert last.end.logprobs is not None
    assert last.end.logprobs.top[0] == (free[0], last.end.logprobs.logprob)
    assert isinstance(cut, Finished)
    assert cut.end is None


async def test_equal_rows_generate_equal_tokens(harness: Harness) -> None:
    """Greedy decoding, and sampling with the same seed, can be repeated."""
    async with running(harness) as engine:
        seeded = Sampling(seed=7, temperature=1.0)
        for sampling in (GREEDY, seeded):
            first = await tokens(engine, row(harness, sampling=sampling))
            assert await tokens(engine, row(harness, sampling=sampling)) == first


async def test_rows_that_run_together_generate_what_they_generate_alone(harness: Harness) -> None:
    """Neither neighbours nor another revision in the batch may change a row."""
    mix = [(0, None), (1, harness.revision), (2, None), (0, harness.revision)]
    async with running(harness, max_rows=3) as engine:
        requests = [row(harness, number, revision=revision) for number, revision in mix]
        alone = [await tokens(engine, request) for request in requests]
        again = [replace(request, request_id=f"{request.request_id}-again") for request in requests]
        together = await asyncio.gather(*(tokens(engine, request) for request in again))
    assert list(together) == alone


async def test_rows_of_one_flow_run_in_the_order_in_which_they_were_submitted(
    harness: Harness,
) -> None:
    """First come, first served."""
    ended: list[int] = []

    async def note(number: int, events: Events) -> None:
        await drain(events)
        ended.append(number)

    async with running(harness, max_rows=1) as engine:
        harness.hold()
        streams = [engine.submit(row(harness, number)) for number in range(4)]
        harness.release()
        await asyncio.gather(*(note(number, events) for number, events in enumerate(streams)))
    assert ended == [0, 1, 2, 3]


async def test_a_report_of_probabilities_is_given_where_it_is_asked_for(harness: Harness) -> None:
    """The number of alternatives is the request's, best first; without a request there is none."""
    asked = replace(GREEDY, logprobs=3)
    async with running(harness) as engine:
        reported = (await drain(engine.submit(row(harness, sampling=asked))))[:-1]
        silent = (await drain(engine.submit(row(harness))))[:-1]
    for event in reported:
        assert isinstance(event, Token)
        assert event.logprobs is not None
        values = [value for _, value in event.logprobs.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert event.logprobs.top[0] == (event.token, event.logprobs.logprob)
    assert all(isinstance(event, Token) and event.logprobs is None for event in silent)


async def test_statistics_count_rows_and_tokens(harness: Harness) -> None:
    """``/admin/engine`` shows what the engine has and has done."""
    async with running(harness, max_rows=2) as engine:
        assert engine.stats().state == "ready"
        request = row(harness, max_tokens=5)
        assert len(await tokens(engine, request)) == 5
        await eventually(lambda: rows_in(engine) == 0)
        stats = engine.stats()
        assert stats.generated_tokens == 5
        assert stats.prompt_tokens == len(request.prompt)
        assert stats.steps > 0


async def test_a_row_that_was_answered_before_is_answered_the_same_again(harness: Harness) -> None:
    """Whatever an engine kept of the first: it changes no token, and the last one is computed."""
    async with running(harness) as engine:
        first, second = [await drain(engine.submit(row(harness))) for _ in range(2)]
    assert first[:-1] == second[:-1]
    last = second[-1]
    assert isinstance(last, Finished)
    assert 0 <= last.cached_tokens < last.prompt_tokens
