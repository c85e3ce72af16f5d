"""How every implementation of the Engine port keeps a row to its constraint."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

import pytest

from server.core.constraints import choice, json_object, json_schema
from server.core.errors import InvalidRequest
from server.core.messages import (
    Constraint,
    Event,
    Finished,
    FinishReason,
    Generate,
    Sampling,
    Token,
)
from tests.conformance.harness import GREEDY, Harness, drain, row, running, tokens

pytestmark = pytest.mark.anyio

PLACE = {
    "type": "object",
    "properties": {"town": {"type": "string", "maxLength": 4}, "open": {"type": "boolean"}},
    "required": ["town", "open"],
    "additionalProperties": False,
}
SAMPLED = Sampling(seed=3, temperature=1.0)


def drawn(events: Sequence[Event]) -> list[int]:
    """The tokens among ``events``."""
    return [event.token for event in events if isinstance(event, Token)]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_a_row_with_a_schema_is_json_that_fits_it_and_ends_there(
    harness: Harness, sampling: Sampling
) -> None:
    """Without an end token of the request: nothing can follow, so the row is through."""
    async with running(harness) as engine:
        request = row(harness, max_tokens=96, sampling=sampling, constraint=json_schema(PLACE))
        events = await drain(engine.submit(request))
    last = events.pop()
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.STOP
    place = json.loads(harness.text(drawn(events)))
    assert set(place) == {"town", "open"}
    assert len(place["town"]) <= 4
    assert isinstance(place["open"], bool)


async def test_a_text_that_max_tokens_cuts_ends_by_length(harness: Harness) -> None:
    """The client learns that the text is not whole."""
    async with running(harness) as engine:
        request = row(harness, max_tokens=3, constraint=json_schema(PLACE))
        events = await drain(engine.submit(request))
    last = events.pop()
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.LENGTH
    assert len(events) == 3
    assert harness.text(drawn(events)).startswith('{"')


async def test_a_text_that_is_whole_at_max_tokens_ends_by_stop(harness: Harness) -> None:
    """It lacks nothing."""
    async with running(harness) as engine:
        constraint = choice(["yes"])
        whole = await tokens(engine, row(harness, constraint=constraint))
        request = row(harness, max_tokens=len(whole), constraint=constraint)
        last = (await drain(engine.submit(request)))[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (choice(["red", "green"]), "red|green"),
        (Constraint("regex", "[ab]{3}-[0-9]{2}"), "[ab]{3}-[0-9]{2}"),
        (
            Constraint("lark", 'start: "<" /[a-z]{2}/ %json {"type": "boolean"} ">"'),
            "<[a-z]{2}(true|false)>",
        ),
    ],
    ids=["choice", "regex", "lark"],
)
async def test_every_kind_of_constraint_holds(
    harness: Harness, constraint: Constraint, pattern: str
) -> None:
    """Choices, patterns and grammars, from the first character to the last."""
    async with running(harness) as engine:
        request = row(harness, max_tokens=40, sampling=SAMPLED, constraint=constraint)
        text = harness.text(await tokens(engine, request))
    assert re.fullmatch(pattern, text)


async def test_an_end_token_is_drawn_only_where_the_text_may_end(harness: Harness) -> None:
    """After one, two or three letters, and never after none."""
    async with running(harness) as engine:
        request = row(
            harness,
            max_tokens=16,
            end_tokens=harness.end_tokens,
            constraint=Constraint("regex", "[a-z]{1,3}"),
        )
        events = await drain(engine.submit(request))
    last = events.pop()
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.STOP
    assert re.fullmatch("[a-z]{1,3}", harness.text(drawn(events)))


async def test_a_free_row_beside_constrained_ones_draws_what_it_draws_alone(
    harness: Harness,
) -> None:
    """And a constrained row beside free ones what it draws alone."""
    async with running(harness) as engine:

        def rows() -> list[Generate]:
            return [
                row(harness, 0, max_tokens=24),
                row(harness, 1, max_tokens=24, sampling=SAMPLED, constraint=json_object()),
                row(harness, 2, max_tokens=24, sampling=SAMPLED, revision=harness.revision),
                row(harness, 3, max_tokens=24, constraint=json_schema(PLACE)),
            ]

        alone = [await tokens(engine, request) for request in rows()]
        together = await asyncio.gather(*(tokens(engine, request) for request in rows()))
    assert list(together) == alone


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Constraint("regex", "("), "regex"),
        (Constraint("regex", "a" * 3000, field="guided_regex"), "guided_regex.*2048"),
        (Constraint("lark", "start: nothing"), "unknown name"),
        (json_schema({"not": {}}), "'not' cannot be enforced"),
        (json_schema({"allOf": [{"type": "string"}, {"type": "null"}]}), "nsatisfiable"),
    ],
)
async def test_a_constraint_that_cannot_be_compiled_is_refused_by_check_and_by_submit(
    harness: Harness, constraint: Constraint, words: str
) -> None:
    """The error names the field and the reason."""
    async with running(harness) as engine:
        with pytest.raises(InvalidRequest, match=words) as refused:
            await asyncio.to_thread(engine.check, constraint)
        assert refused.value.param == constraint.field
        with pytest.raises(InvalidRequest, match=words):
            engine.submit(row(harness, constraint=constraint))


async def test_a_constrained_row_can_be_cancelled(harness: Harness) -> None:
    """And the one after it begins at the beginning."""
    constraint = Constraint("regex", "[a-z]+!")
    async with running(harness) as engine:
        request = row(harness, max_tokens=harness.context - 12, constraint=constraint)
        events = engine.submit(request)
        await anext(events)
        engine.cancel(request.request_id)
        last = (await drain(events))[-1]
        again = await tokens(engine, row(harness, max_tokens=4, constraint=constraint))
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
    assert re.fullmatch("[a-z]+!?", harness.text(again))
