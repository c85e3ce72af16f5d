"""The decode batch as its rows come and go."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from adapters.base.load import load_base
from adapters.base.tokenizer import load_tokenizer
from adapters.lora import Router
from server.core.messages import Generate, Sampling
from server.core.speculation import StepTimes
from server.engine.decode import DecodeBatch
from server.engine.ragged import RaggedKVCache
from server.engine.rows import Forward, Row
from server.engine.speculation import Speculation

PROMPTS = ((3, 5, 7, 11), (13, 17), (19, 23, 29), (31, 37, 41))


@pytest.fixture(scope="module")
def forward(tiny_model: Path) -> Forward:
    """The tiny model's."""
    model = load_base(tiny_model).model
    return Forward(model, Router(model), load_tokenizer(tiny_model).vocab_size)


def row(forward: Forward, prompt: tuple[int, ...]) -> Row:
    """A greedy row that is ready to decode."""
    request = Generate(
        request_id=str(prompt),
        prompt=prompt,
        max_tokens=99,
        sampling=Sampling(seed=0, temperature=0.0),
        end_tokens=frozenset(),
        revision=None,
        flow="",
    )
    made = Row(request, prompt, caches=forward.make_caches())
    assert made.caches is not None
    forward(mx.array([prompt[:-1]]), made.caches, forward.router.plan([None]))
    return made


def batch_of(forward: Forward, rows: list[Row]) -> DecodeBatch:
    """A batch that guesses nothing."""
    times = StepTimes(fixed_s=0.001, tokens_per_s=1000)
    batch = DecodeBatch(forward, Speculation(times, most=0, kv_tokens=1 << 16))
    batch.join(rows)
    return batch


def advance(batch: DecodeBatch, steps: int) -> None:
    """Let the rows draw."""
    for _ in range(steps):
        for drawn in batch.step():
            assert drawn.token is not None
            drawn.row.generated.append(drawn.token.token)


def test_rows_that_end_at_one_step_leave_in_one_copy(
    forward: Forward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caches are copied for the rows that stay, not once for each that goes."""
    rows = [row(forward, prompt) for prompt in PROMPTS]
    batch = batch_of(forward, rows)
    advance(batch, 3)
    kept: list[list[int]] = []
    filter_rows = RaggedKVCache.filter

    def counting(cache: RaggedKVCache, indices: list[int]) -> None:
        kept.append(indices)
        filter_rows(cache, indices)

    monkeypatch.setattr(RaggedKVCache, "filter", counting)
    for each in (rows[0], rows[2]):
        batch.leave(each)
    assert batch.rows == [rows[1], rows[3]]
    advance(batch, 1)
    assert kept == [[1, 3]] * len(forward.make_caches())


def test_a_row_draws_what_it_draws_alone_whoever_leaves_and_joins(forward: Forward) -> None:
    """Rows that leave just before others join are gone before those come."""
    alone = [row(forward, prompt) for prompt in PROMPTS]
    for each in alone:
        advance(batch_of(forward, [each]), 9)
    rows = [row(forward, prompt) for prompt in PROMPTS]
    batch = batch_of(forward, rows[:3])
    advance(batch, 4)
    batch.leave(rows[0])
    batch.join(rows[3:])
    advance(batch, 9)
    for mine, other in zip(rows[1:], alone[1:], strict=True):
        assert mine.generated[:8] == other.generated[:8]
    assert len(rows[0].generated) == 3


def test_nothing_is_held_once_the_last_row_has_left(forward: Forward) -> None:
    """Not until another one comes."""
    rows = [row(forward, prompt) for prompt in PROMPTS]
    batch = batch_of(forward, rows)
    advance(batch, 2)
    for each in rows:
        batch.leave(each)
    assert batch.rows == []
    assert batch.kv_bytes == 0
