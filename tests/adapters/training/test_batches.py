"""Plans: every row once an epoch, the same order for the same inputs, no batch over its tokens."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import DataError
from adapters.lineage import TrainSettings
from adapters.training.batches import MicroBatch, Plan, make_plan, micro_batches, tokens_of

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)
SETTINGS = st.builds(
    TrainSettings,
    epochs=st.integers(1, 4),
    batch_size=st.integers(1, 20),
    micro_batch_tokens=st.integers(1, 600),
    validation_split=st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)


def rows_of(step: tuple[MicroBatch, ...]) -> list[int]:
    """The rows of a step, in the order in which they are computed."""
    return [row for batch in step for row in batch.rows]


@given(lengths=LENGTHS, settings=SETTINGS, stage=st.integers(1, 9))
def test_every_row_is_learned_once_in_each_epoch(
    lengths: list[int], settings: TrainSettings, stage: int
) -> None:
    """None is dropped and none comes twice, whatever the batch size leaves over."""
    plan = make_plan(lengths, settings, stage_number=stage)
    in_epoch = -(-len(plan.train) // settings.batch_size)
    assert len(plan.steps) == in_epoch * (settings.epochs or 0)
    for epoch in range(settings.epochs or 0):
        steps = plan.steps[epoch * in_epoch : (epoch + 1) * in_epoch]
        assert sorted(row for step in steps for row in rows_of(step)) == list(plan.train)
        sizes = [len(rows_of(step)) for step in steps]
        assert sizes[:-1] == [settings.batch_size] * (in_epoch - 1)
        assert 1 <= sizes[-1] <= settings.batch_size


@given(lengths=LENGTHS, settings=SETTINGS, iters=st.integers(1, 200))
def test_iters_counts_optimizer_steps(
    lengths: list[int], settings: TrainSettings, iters: int
) -> None:
    """The steps are those of as many epochs as it takes, up to that number exactly."""
    exact = make_plan(lengths, replace(settings, epochs=None, iters=iters), stage_number=1)
    epochs = make_plan(lengths, replace(settings, epochs=iters), stage_number=1)
    assert len(exact.steps) == len(list(exact.steps)) == iters
    assert list(exact.steps) == list(epochs.steps[:iters])


@given(lengths=LENGTHS, settings=SETTINGS)
def test_a_micro_batch_keeps_to_its_tokens(lengths: list[int], settings: TrainSettings) -> None:
    """Padding included, except for a single row that is longer than that."""
    plan = make_plan(lengths, settings, stage_number=1)
    for batch in (batch for step in plan.steps for batch in step):
        padded = len(batch.rows) * max(lengths[row] for row in batch.rows)
        assert len(batch.rows) == 1 or padded <= settings.micro_batch_tokens


@given(lengths=LENGTHS, tokens=st.integers(1, 600))
def test_rows_of_like_length_are_computed_together(lengths: list[int], tokens: int) -> None:
    """From short to long; the next row fits no more where a micro-batch ends."""
    batches = micro_batches(range(len(lengths)), lengths, tokens)
    order = [lengths[row] for batch in batches for row in batch.rows]
    assert order == sorted(lengths)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch.rows) + 1) * lengths[following.rows[0]] > tokens


@given(lengths=LENGTHS, settings=SETTINGS, stage=st.integers(1, 9))
def test_a_plan_is_a_function_of_its_inputs(
    lengths: list[int], settings: TrainSettings, stage: int
) -> None:
    """Asked again, or for its steps in another order, it gives the same ones."""
    plan = make_plan(lengths, settings, stage_number=stage)
    again = make_plan(lengths, settings, stage_number=stage)
    backwards = [again.steps[i] for i in reversed(range(len(again.steps)))]
    assert list(plan.steps) == backwards[::-1]
    assert plan.digest() == again.digest()
    assert plan == again
    assert plan.steps[-1] == plan.steps[len(plan.steps) - 1]


@pytest.mark.parametrize(
    ("change", "stage"),
    [({"seed": 1}, 1), ({}, 2), ({"batch_size": 7}, 1), ({"micro_batch_tokens": 99}, 1)],
)
def test_the_digest_tells_plans_apart(change: dict[str, Any], stage: int) -> None:
    """Another seed, stage, batch or micro-batch is another plan."""
    settings = TrainSettings(epochs=2)
    lengths = [10 + n % 37 for n in range(50)]
    plan = make_plan(lengths, settings, stage_number=1)
    other = make_plan(lengths, replace(settings, **change), stage_number=stage)
    assert plan.digest() != other.digest()
    assert plan.digest() != make_plan(lengths[1:], settings, stage_number=1).digest()
    assert plan.digest() != Plan(plan.train, (), list(plan.steps)[::-1]).digest()
    assert plan.digest() == Plan(plan.train, (), list(plan.steps)).digest()


def test_millions_of_steps_are_told_apart_in_a_moment() -> None:
    """By how many there are, how they begin and how they end; a hundred epochs would take long."""
    plans = [
        make_plan(lengths, TrainSettings(iters=iters, seed=seed), stage_number=1)
        for lengths, iters, seed in (
            ([5] * 40, 10**7, 0),
            ([5] * 40, 10**7 - 1, 0),
            ([5] * 40, 10**7, 1),
            ([5] * 41, 10**7, 0),
        )
    ]
    assert len({plan.digest() for plan in plans}) == 4
    long = make_plan([5] * 40, TrainSettings(iters=5000), stage_number=1)
    steps = list(long.steps)
    for changed in (0, 4999):
        other = [*steps]
        other[changed] = (*steps[changed][::-1], MicroBatch((0,)))
        assert Plan(long.train, (), other).digest() != long.digest()


@given(lengths=LENGTHS, settings=SETTINGS, data=st.data())
def test_the_tokens_of_some_steps_are_those_of_their_rows(
    lengths: list[int], settings: TrainSettings, data: st.DataObject
) -> None:
    """Counted by epochs, since there may be millions of steps."""
    plan = make_plan(lengths, settings, stage_number=1)
    steps = data.draw(st.integers(0, len(plan.steps)))
    expected = sum(lengths[row] for step in plan.steps[:steps] for row in rows_of(step))
    assert tokens_of(plan, lengths, settings.batch_size, steps) == expected


def test_an_epoch_has_an_order_of_its_own() -> None:
    """The same rows meet in other steps the next time round."""
    plan = make_plan([5] * 40, TrainSettings(epochs=2), stage_number=1)
    assert [set(rows_of(step)) for step in plan.steps[:5]] != [
        set(rows_of(step)) for step in plan.steps[5:]
    ]


def test_a_plan_is_the_same_for_ever() -> None:
    """No hash of a process and no shuffle of a version is in it: a stage may resume years later."""
    lengths = [10 + n * 7 % 90 for n in range(33)]
    settings = TrainSettings(epochs=3, validation_split=0.1, seed=5, micro_batch_tokens=1024)
    plan = make_plan(lengths, settings, stage_number=2)
    assert plan.digest() == "8ffddb7f8cc0519568864612e41ababf1925857dec3f68ed697217377e8f16d0"


@given(lengths=LENGTHS, settings=SETTINGS)
def test_a_share_of_the_rows_is_held_out(lengths: list[int], settings: TrainSettings) -> None:
    """At least one where a share is asked for and there are two rows, and never all."""
    plan = make_plan(lengths, settings, stage_number=1)
    assert sorted(plan.train + plan.validation) == list(range(len(lengths)))
    assert plan.train
    wanted = settings.validation_split > 0 and len(lengths) > 1
    assert bool(plan.validation) == wanted
    if wanted:
        share = round(len(lengths) * settings.validation_split)
        assert len(plan.validation) == min(max(share, 1), len(lengths) - 1)


def test_the_next_stage_holds_out_the_same_rows() -> None:
    """Else it would be measured on what the chain has learned."""
    settings = TrainSettings(epochs=1, validation_split=0.2)
    first, second = (make_plan([9] * 50, settings, stage_number=n) for n in (1, 2))
    assert first.validation == second.validation
    assert list(first.steps) != list(second.steps)
    other = make_plan([9] * 50, replace(settings, seed=1), stage_number=1)
    assert other.validation != first.validation


def test_validation_data_leave_all_rows_to_be_learned() -> None:
    """Given rows to measure on, none is held out."""
    settings = TrainSettings(epochs=1, validation_split=0.5)
    plan = make_plan([9] * 8, settings, stage_number=1, validation_rows=3)
    assert (plan.train, plan.validation) == (tuple(range(8)), (0, 1, 2))


def test_no_rows_are_no_micro_batch() -> None:
    """Nothing is computed for nothing."""
    assert micro_batches([], [], 100) == ()


def test_no_rows_are_an_error() -> None:
    """There is nothing to plan."""
    with pytest.raises(DataError, match="no rows"):
        make_plan([], TrainSettings(epochs=1), stage_number=1)


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "iters": 1}])
def test_a_stage_has_one_length(length: dict[str, Any]) -> None:
    """Both or neither is a caller's mistake."""
    with pytest.raises(ValueError, match="one of iters and epochs"):
        make_plan([1], TrainSettings(**length), stage_number=1)


def test_steps_beyond_the_last_are_not_there() -> None:
    """A sequence ends, so that a loop over it does."""
    plan = make_plan([3] * 5, TrainSettings(iters=4), stage_number=1)
    with pytest.raises(IndexError):
        plan.steps[4]


def test_a_plan_of_many_steps_costs_nothing_until_they_are_asked_for() -> None:
    """Ten million steps over a hundred thousand rows: counted at once, any one of them soon."""
    # A list of them all would take minutes.
    settings = TrainSettings(iters=10_000_000)
    plan = make_plan([50] * 100_000, settings, stage_number=1)
    assert len(plan.steps) == 10_000_000
    assert Counter(rows_of(plan.steps[9_999_999])).most_common(1)[0][1] == 1
