"""How far to guess ahead, by what steps take and what guesses are worth."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from server.core.speculation import AHEAD, StepTimes, plan_ahead

GAINS = st.lists(
    st.lists(st.floats(0.01, 1), max_size=AHEAD[-1]).map(
        lambda steps: [sum(steps[: end + 1]) for end in range(len(steps))]
    ),
    min_size=1,
    max_size=16,
)
SPEEDS = st.floats(1, 1e5)


def times(tokens_per_s: float = 500.0) -> StepTimes:
    """A step of one token takes 52 ms, one of sixteen 82."""
    return StepTimes(fixed_s=0.05, tokens_per_s=tokens_per_s)


@given(GAINS, SPEEDS)
def test_what_is_planned_is_expected_to_win_over_single_tokens(
    gains: list[list[float]], speed: float
) -> None:
    """The geometric mean of the rows' speeds rises, hence the sum of the tokens too."""
    steps = times(speed)
    ahead = plan_ahead(gains, steps)
    if ahead:
        slower = steps.expected(len(gains), ahead + 1) / steps.expected(len(gains), 1)
        speeds = [(1 + row[min(ahead, len(row)) - 1] if row else 1) / slower for row in gains]
        assert math.prod(speeds) > 1
        assert sum(speeds) > len(speeds)


@given(GAINS, SPEEDS)
def test_nobody_guesses_further_than_the_longest_proposal(
    gains: list[list[float]], speed: float
) -> None:
    """Padding alone wins nothing."""
    assert plan_ahead(gains, times(speed)) <= max(map(len, gains))


def test_rows_without_a_guess_are_not_slowed_down_for_one_that_has_one() -> None:
    """Sixteen rows pay for the padding; one gains."""
    sure = [float(count) for count in range(1, 16)]
    assert plan_ahead([sure], times()) == 15
    assert plan_ahead([sure] * 16, times()) > 0
    assert plan_ahead([sure, *[[]] * 15], times()) == 0


def test_guesses_that_rarely_come_true_are_not_tried() -> None:
    """One in ten does not pay for a step that takes 4 % longer and its own margin."""
    assert plan_ahead([[0.05, 0.055]], times()) == 0


def test_a_step_that_turns_out_slow_is_not_taken_again_until_it_is_forgotten() -> None:
    """What was measured goes before what was expected; but one bad moment is no verdict."""
    steps = times()
    gains = [[0.8]]
    assert plan_ahead(gains, steps) == 1
    tries = 0
    while plan_ahead(gains, steps):
        steps.observe(1, 2, 0.2)
        tries += 1
    assert tries < 10
    for _ in range(1000):
        steps.observe(1, 1, steps.expected(1, 1))
    assert plan_ahead(gains, steps) == 1


def test_single_steps_tell_how_long_unseen_shapes_take() -> None:
    """A device that others use, or a long context, is slow whatever the step's length."""
    steps = times()
    before = steps.expected(4, 8)
    for _ in range(100):
        steps.observe(4, 1, 3 * 0.058)
    assert math.isclose(steps.expected(4, 8), 3 * before, rel_tol=0.01)
    assert steps.expected(5, 8) < 2 * before


@given(st.lists(st.tuples(st.sampled_from([1, 4]), st.floats(0, 100)), max_size=30))
def test_one_observation_moves_an_expectation_by_a_fifth_at_most(
    seen: list[tuple[int, float]],
) -> None:
    """Another program may hold a step up as long as it likes."""
    steps = times()
    for length, seconds in seen:
        before = steps.expected(2, length)
        steps.observe(2, length, seconds)
        after = steps.expected(2, length)
        assert 0.89 * before <= after <= 1.21 * before
