"""Which modules of a base can carry a low-rank update."""

from __future__ import annotations

from typing import Any

from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear


def linear_shape(module: Any) -> tuple[int, int] | None:
    """(in, out) features of a linear layer, quantized or not; None for every other module."""
    if isinstance(module, QuantizedLinear):
        rows, packed = module.weight.shape
        return packed * 32 // module.bits, rows
    if isinstance(module, Linear):
        rows, columns = module.weight.shape
        return columns, rows
    return None
