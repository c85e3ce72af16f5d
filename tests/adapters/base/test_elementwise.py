"""Softmax, logsumexp and SwiGLU are MLX's own in other operations: values and gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from adapters.base.elementwise import is_faster, logsumexp, softmax, swiglu
from adapters.base.heap import keep_freed_memory

Pair = tuple[Callable[..., mx.array], Callable[..., mx.array]]
SHAPE = (24, 512)
PAIRS: dict[str, Pair] = {
    "softmax": (lambda x, w: softmax(x) * w, lambda x, w: mx.softmax(x, axis=-1) * w),
    "logsumexp": (lambda x, w: logsumexp(x) * w[:, 0], lambda x, w: mx.logsumexp(x, -1) * w[:, 0]),
    "swiglu": (swiglu, lambda gate, x: gate * mx.sigmoid(gate) * x),
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX's own exp is used elsewhere")


def numbers(seed: int, spread: float = 1.0) -> mx.array:
    """The same numbers for the same seed."""
    return mx.random.normal(SHAPE, key=mx.random.key(seed)) * spread


@linux
def test_the_operations_here_are_the_ones_that_are_compared() -> None:
    """Large float32 arrays take the fast way; small ones and other types take MLX's."""
    assert is_faster(numbers(0).size, mx.float32)
    assert not is_faster(64, mx.float32)
    assert not is_faster(numbers(0).size, mx.float16)


@pytest.mark.parametrize("spread", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("name", PAIRS)
def test_values_are_those_of_mlx(name: str, spread: float) -> None:
    """To a few units in the last place of float32, for small and for large inputs."""
    ours, theirs = PAIRS[name]
    x, w = numbers(1, spread), numbers(2)
    assert mx.allclose(ours(x, w), theirs(x, w), rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_those_of_mlx(name: str) -> None:
    """By both inputs, against MLX's own derivative of its own function."""
    ours, theirs = PAIRS[name]

    def summed(operation: Callable[..., mx.array]) -> Any:
        return mx.grad(lambda *inputs: mx.sum(operation(*inputs)), argnums=(0, 1))

    x, w = numbers(3, 3.0), numbers(4)
    for mine, other in zip(summed(ours)(x, w), summed(theirs)(x, w), strict=True):
        assert mx.allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_a_value_that_is_not_a_number_stays_one(name: str) -> None:
    """So that a row of a diverged adapter is found, and ends alone."""
    ours, _ = PAIRS[name]
    x = numbers(5)
    x[3, 7] = float("nan")
    made = ours(x, mx.ones(SHAPE))
    bad = mx.isnan(made).any(axis=-1) if made.ndim == 2 else mx.isnan(made)
    assert [i for i, each in enumerate(bad.tolist()) if each] == [3]  # type: ignore[arg-type]


def test_terms_far_below_the_largest_weigh_nothing() -> None:
    """Minus infinity and minus 100 both leave the others' sum as it is."""
    x = mx.zeros(SHAPE)
    x[:, 0] = float("-inf")
    x[:, 1] = -100.0
    made = softmax(x)
    assert made[:, :2].max().item() <= 1e-26  # type: ignore[operator]
    assert mx.allclose(made[:, 2:], mx.array(1 / (SHAPE[1] - 2)), rtol=1e-6)


@linux
def test_the_c_library_keeps_freed_memory() -> None:
    """glibc takes both settings; a second call changes nothing."""
    assert keep_freed_memory()
    assert keep_freed_memory()
