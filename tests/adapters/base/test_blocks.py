"""Products in blocks are products; only the way to them differs."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from adapters.base import blocks


def close(left: mx.array, right: mx.array) -> None:
    """Equal but for the order of the sums."""
    np.testing.assert_allclose(np.array(left), np.array(right), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", [64, 1_024, 2_048, 70_000])
def test_a_block_times_sixteen_rows_is_a_small_product_where_one_can_be(inputs: int) -> None:
    """OpenBLAS copies what is larger, and the blocks would be worth nothing."""
    _, _, width = blocks.cut(mx.zeros((inputs, 64))).shape
    assert 64 % width == 0
    assert width == 16 or 16 * inputs * width <= 1_000_000


@pytest.mark.parametrize("outputs", [16, 64, 70, 192])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 8), (2, 3, 8)])
def test_blocks_multiply_as_the_matrix_does(shape: tuple[int, ...], outputs: int) -> None:
    """Whatever the batch's shape, and where no width divides the outputs."""
    x, matrix = mx.random.normal(shape), mx.random.normal((8, outputs))
    close(blocks.product(x, blocks.cut(matrix), outputs), x @ matrix)
