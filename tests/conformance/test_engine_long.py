"""Rows so long that they come back to what they said, which an engine may guess by."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from server.core.messages import Finished, FinishReason, Sampling, Token
from tests.conformance.harness import GREEDY, Harness, drain, row, running, tokens

pytestmark = pytest.mark.anyio

LOOPING = replace(GREEDY, logit_bias=((40, 100.0),))
"""Where a bias counts, one token for ever."""


@pytest.mark.parametrize("sampling", [GREEDY, LOOPING, Sampling(seed=3, temperature=0.7)])
async def test_long_rows_generate_together_what_they_generate_alone(
    harness: Harness, sampling: Sampling
) -> None:
    """However many tokens a step draws for a row, and whatever stands beside it."""
    revisions = [None, harness.revision] * 2
    async with running(harness) as engine:
        requests = [
            row(harness, number, revision=revision, sampling=sampling, max_tokens=26)
            for number, revision in enumerate(revisions)
        ]
        alone = [await tokens(engine, request) for request in requests]
        again = [replace(request, request_id=f"{request.request_id}-2") for request in requests]
        together = await asyncio.gather(*(tokens(engine, request) for request in again))
    assert list(together) == alone
    assert [len(each) for each in alone] == [26] * len(alone)


async def test_a_long_row_ends_at_any_length_that_is_asked_for(harness: Harness) -> None:
    """Not a token further, though a step might have drawn it."""
    async with running(harness) as engine:
        whole = await tokens(engine, row(harness, sampling=LOOPING, max_tokens=40))
        for most in range(20, 40):
            *begun, last = await drain(
                engine.submit(row(harness, sampling=LOOPING, max_tokens=most))
            )
            assert [each.token for each in begun if isinstance(each, Token)] == whole[:most]
            assert isinstance(last, Finished)
            assert (last.reason, last.completion_tokens) == (FinishReason.LENGTH, most)
