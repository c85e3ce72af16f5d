"""Matrices cut into blocks of columns, which OpenBLAS multiplies as they lie.

With few rows most of a product is not arithmetic: OpenBLAS first copies the matrix into its own
order, each time anew (half of a decode step of one row, a third of one of sixteen). It leaves a
small matrix as it is. Cut into such blocks, 576x1536 takes a third of the time at one row and half
of it at sixteen; at 64 rows there is nothing left to gain.
"""

from __future__ import annotations

import platform
import sys

import mlx.core as mx

# OpenBLAS copies nothing where rows x inputs x columns is no more (sgemm_small_matrix_permit);
# of the widths that divide most layers, the widest that this allows for 16 rows was the fastest.
_SMALL_PRODUCT = 1_000_000
_WIDTHS = (64, 32, 16)
_ROWS = 16


def blocks_pay() -> bool:
    """Whether few rows are faster in blocks here: measured on x86-64 Linux alone."""
    return (
        sys.platform == "linux"
        and platform.machine() == "x86_64"
        and mx.default_device().type == mx.DeviceType.cpu
    )


def cut(matrix: mx.array) -> mx.array:
    """A matrix (in, out) as blocks (blocks, in, width), the last filled up with zeros."""
    inputs, outputs = matrix.shape
    fitting = (each for each in _WIDTHS if _ROWS * each * inputs <= _SMALL_PRODUCT)
    width = next(fitting, _WIDTHS[-1])
    filled = mx.pad(matrix, [(0, 0), (0, -outputs % width)])
    return mx.contiguous(filled.reshape(inputs, -1, width).swapaxes(0, 1))


def fits(rows: int, blocks: mx.array) -> bool:
    """Whether blocks are what multiplies so many rows fastest."""
    return rows * blocks.shape[1] * blocks.shape[2] <= _SMALL_PRODUCT


def product(x: mx.array, blocks: mx.array, outputs: int) -> mx.array:
    """``x`` (..., in) times the matrix (in, ``outputs``) that was cut into ``blocks``."""
    rows = x.size // x.shape[-1]
    y = x.reshape(1, rows, -1) @ blocks
    if rows > 1:
        y = y.swapaxes(0, 1)
    y = y.reshape(*x.shape[:-1], -1)
    return y if y.shape[-1] == outputs else y[..., :outputs]
