"""The learning rate is a function of the step: it rises, and then stays or falls."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.lineage import TrainSettings
from adapters.training.schedule import learning_rate, warmup_steps

SETTINGS = TrainSettings(iters=1, learning_rate=1e-3, warmup_steps=0)

settings = st.builds(
    TrainSettings,
    iters=st.just(1),
    learning_rate=st.floats(1e-6, 1.0),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup_steps=st.none() | st.integers(0, 50),
)


@given(settings, st.integers(1, 300))
def test_the_rate_rises_then_never_rises_again(settings: TrainSettings, steps: int) -> None:
    """It is above 0 in each step, at its peak once at least, and over it never."""
    rates = [learning_rate(step, steps, settings) for step in range(steps)]
    top = warmup_steps(steps, settings)
    assert all(0 < rate <= settings.learning_rate for rate in rates)
    assert rates[top] == settings.learning_rate
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in itertools.pairwise(rates[top:]))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1e-3, 1e-3, 1e-3, 1e-3]),
        ("linear", [1e-3, 7.5e-4, 5e-4, 2.5e-4]),
        ("cosine", [1e-3, 8.535534e-4, 5e-4, 1.464466e-4]),
    ],
)
def test_the_rate_falls_as_the_schedule_says(schedule: str, rates: list[float]) -> None:
    """Zero would be reached one step after the last."""
    chosen = TrainSettings(iters=4, learning_rate=1e-3, warmup_steps=0)
    chosen = dataclasses.replace(chosen, schedule=schedule)  # type: ignore[arg-type]
    found = [learning_rate(step, 4, chosen) for step in range(4)]
    assert found == pytest.approx(rates)


def test_a_warm_up_is_a_twentieth_where_none_is_asked_for() -> None:
    """And it leaves at least one step at the peak, however long it is asked to be."""
    default = dataclasses.replace(SETTINGS, warmup_steps=None)
    assert warmup_steps(100, default) == 5
    assert warmup_steps(19, default) == 0
    assert warmup_steps(10, dataclasses.replace(SETTINGS, warmup_steps=50)) == 9
