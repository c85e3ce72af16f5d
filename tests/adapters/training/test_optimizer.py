"""An optimizer step is AdamW on the mean gradient, clipped, and nothing that is not finite."""

from __future__ import annotations

import math

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import pytest

from adapters.errors import NonFinite
from adapters.training.loss import Sums
from adapters.training.optimizer import Optimizer

PARAMETERS = {"m.a": mx.array([1.0, -2.0]), "m.b": mx.array([[3.0]])}


def sums_of(loss: float, a: list[float], b: float) -> Sums:
    """The sums of a step."""
    sums = Sums()
    sums.add(mx.array(loss), {"m.a": mx.array(a), "m.b": mx.array([[b]])})
    return sums


def make(*, weight_decay: float = 0.0, max_grad_norm: float = 0.0) -> Optimizer:
    """An optimizer of PARAMETERS."""
    return Optimizer(PARAMETERS, weight_decay=weight_decay, max_grad_norm=max_grad_norm)


def test_the_first_step_is_as_long_as_the_rate() -> None:
    """Bias correction: whatever the gradient's size, each parameter moves by the rate."""
    made, update = make().step(PARAMETERS, sums_of(8.0, [6.0, -0.02], 4.0), 2, 0.1, number=1)
    assert made["m.a"].tolist() == pytest.approx([0.9, -1.9], abs=1e-5)
    assert made["m.b"].item() == pytest.approx(2.9, abs=1e-5)
    assert update.loss == 4.0
    assert update.gradient_norm == pytest.approx(math.sqrt(9 + 0.0001 + 4), rel=1e-6)


def test_steps_follow_the_published_algorithm() -> None:
    """AdamW written out for one number (Loshchilov and Hutter 2019, algorithm 2)."""
    optimizer = make(weight_decay=0.1)
    parameters = PARAMETERS
    theta, m, v = 1.0, 0.0, 0.0
    for step, gradient in enumerate([0.5, -1.5, 2.0], start=1):
        rate = 0.01 * step
        parameters, _ = optimizer.step(
            parameters, sums_of(1.0, [gradient, 0.0], 0.0), 1, rate, number=step
        )
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        theta *= 1 - rate * 0.1
        theta -= rate * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
        assert parameters["m.a"][0].item() == pytest.approx(theta, rel=1e-5)


def test_a_gradient_is_clipped_by_its_norm_over_all_parameters() -> None:
    """The moments see the clipped one; the report tells the norm before. 0 switches it off."""
    for most, factor in ((1.0, 0.2), (10.0, 1.0), (0.0, 1.0)):
        optimizer = make(max_grad_norm=most)
        _, update = optimizer.step(PARAMETERS, sums_of(1.0, [3.0, 0.0], 4.0), 1, 0.1, number=1)
        assert update.gradient_norm == pytest.approx(5.0)
        moments = optimizer.moments()
        assert moments["m.m.a"][0].item() == pytest.approx(0.1 * 3.0 * factor, rel=1e-4)
        assert moments["v.m.b"].item() == pytest.approx(0.001 * 16.0 * factor**2, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "gradient", "rate", "what"),
    [
        (float("nan"), 1.0, 0.1, "loss of step 4"),
        (float("inf"), 1.0, 0.1, "loss of step 4"),
        (1.0, float("nan"), 0.1, "gradient of step 4"),
        (1.0, 1e30, 0.1, "gradient of step 4"),
        (1.0, 1.0, 1e39, "parameter is not finite after step 4"),
    ],
)
def test_what_is_not_finite_changes_nothing(
    loss: float, gradient: float, rate: float, what: str
) -> None:
    """The error names the step and a cure; parameters and moments stay those before it."""
    optimizer = make()
    optimizer.step(PARAMETERS, sums_of(1.0, [1.0, 1.0], 1.0), 1, 0.1, number=3)
    before = {name: array.tolist() for name, array in optimizer.moments().items()}
    with pytest.raises(NonFinite, match=what) as refused:
        optimizer.step(PARAMETERS, sums_of(loss, [gradient, 1.0], 1.0), 1, rate, number=4)
    assert "Lower learning_rate" in str(refused.value)
    assert {name: array.tolist() for name, array in optimizer.moments().items()} == before
    made, _ = optimizer.step(PARAMETERS, sums_of(1.0, [1.0, 1.0], 1.0), 1, 0.1, number=4)
    assert made["m.a"].tolist() == pytest.approx([0.9, -2.1], abs=1e-4)


def test_a_restored_optimizer_goes_on_to_the_bit() -> None:
    """Moments and the number of steps are all of its state."""
    first, second = make(weight_decay=0.1), make(weight_decay=0.1)
    parameters = PARAMETERS
    for number in (1, 2):
        parameters, _ = first.step(
            parameters, sums_of(1.0, [0.3, 0.7], number), 3, 0.01, number=number
        )
    second.restore(2, first.moments())
    ends = [
        each.step(parameters, sums_of(1.0, [0.1, -0.2], 0.3), 3, 0.01, number=3)[0]
        for each in (first, second)
    ]
    assert all(mx.array_equal(ends[0][name], ends[1][name]).item() for name in PARAMETERS)


def test_a_step_needs_a_loss() -> None:
    """Sums without one are a mistake of the caller's."""
    with pytest.raises(RuntimeError, match="without a loss"):
        make().step(PARAMETERS, Sums(), 1, 0.1, number=1)
