"""The draws: what they keep, what they choose, and that neither depends on the neighbours."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.draw import draw, keep_min_p, keep_top_k, keep_top_p, uniform


def column(*values: float) -> mx.array:
    """A (rows, 1) array."""
    return mx.array([[value] for value in values])


def test_uniform_numbers_are_a_function_of_seed_and_position() -> None:
    """The same pair gives the same number, another pair another one."""
    assert uniform(7, 3) == uniform(7, 3)
    assert len({uniform(seed, position) for seed in range(30) for position in range(30)}) > 890


def test_uniform_numbers_are_uniform() -> None:
    """Mean 1/2 and variance 1/12, within five standard errors over 20,000 draws."""
    numbers = np.array([uniform(12345, position) for position in range(20_000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 0.003


def test_draws_follow_the_weights() -> None:
    """Over many uniforms the frequency of each token approaches its weight."""
    weights = np.array([0.1, 0.0, 0.6, 0.3])
    rows = 4000
    tokens = draw(
        mx.broadcast_to(mx.array(weights, mx.float32), (rows, 4)),
        mx.array([[uniform(1, position)] for position in range(rows)]),
    )
    seen = np.bincount(np.array(tokens), minlength=4) / rows
    np.testing.assert_allclose(seen, weights, atol=0.04)
    assert seen[1] == 0


@settings(max_examples=60)
@given(
    st.integers(1, 1500),
    st.floats(0, 1, exclude_max=True, width=32),
    st.integers(0, 2**31),
    st.floats(0.01, 1),
)
def test_a_token_without_weight_is_never_drawn(
    vocabulary: int, number: float, seed: int, density: float
) -> None:
    """Whatever the block borders and the rounding, the drawn token has a positive weight."""
    random = np.random.default_rng(seed)
    weights = random.random(vocabulary) * (random.random(vocabulary) < density)
    weights[random.integers(vocabulary)] = 1e-6
    token = int(np.array(draw(mx.array(weights[None], mx.float32), column(number)))[0])
    assert 0 <= token < vocabulary
    assert weights[token] > 0


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.05, 0.999), st.sampled_from([50, 700, 9000]))
def test_the_nucleus_is_the_smallest_set_that_reaches_its_mass(
    seed: int, top_p: float, vocabulary: int
) -> None:
    """Equal to sorting everything, also where a thousand candidates do not hold the nucleus."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2, vocabulary)) * random.choice([0.01, 1.0, 4.0])
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kept = np.array(keep_top_p(mx.array(weights, mx.float32), column(top_p, top_p)))
    for row, full in zip(kept, weights, strict=True):
        single = full.astype(np.float32)
        falling = np.sort(single)[::-1]
        before = np.cumsum(falling, dtype=np.float64) - falling
        # A sum of thousands of float32 is off by up to 1e-4 of the mass; ties at the border stay.
        least, most = (int((before < top_p + off).sum()) for off in (-1e-4, 1e-4))
        assert least <= int((row > 0).sum()) <= int((single >= falling[most - 1]).sum())
        assert row.sum() >= top_p - 1e-4


def test_top_k_keeps_each_rows_own_number() -> None:
    """Rows of one batch may ask for different numbers."""
    logits = mx.array(np.random.default_rng(0).normal(size=(3, 40)), mx.float32)
    kept = keep_top_k(logits, mx.array([[1], [7], [40]]), 40)
    assert np.isfinite(np.array(kept)).sum(-1).tolist() == [1, 7, 40]


def test_min_p_keeps_what_is_probable_beside_the_best() -> None:
    """The border is a share of the row's own largest probability."""
    kept = keep_min_p(mx.array([[0.5, 0.3, 0.04], [0.1, 0.1, 0.1]]), column(0.5, 0.9))
    assert (np.array(kept) > 0).tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_draw_does_not_depend_on_the_rows_place(place: int) -> None:
    """The same row draws the same token wherever it stands in the batch."""
    weights = np.random.default_rng(3).random((3, 600))
    alone = draw(mx.array(weights[:1], mx.float32), column(0.37)).item()
    order = [1, 2]
    order.insert(place, 0)
    together = draw(mx.array(weights[order], mx.float32), column(0.37, 0.37, 0.37))
    assert int(np.array(together)[place]) == alone
