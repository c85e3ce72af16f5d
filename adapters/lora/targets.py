"""Which modules of a base can carry a low-rank update."""

from __future__ import annotations

from typing import Any

from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear

from adapters.shape import Target


def linear_shape(module: Any) -> tuple[int, int] | None:
    """(in, out) features of a linear layer, quantized or not; None for every other module."""
    if isinstance(module, QuantizedLinear):
        rows, packed = module.weight.shape
        return packed * 32 // module.bits, rows
    if isinstance(module, Linear):
        rows, columns = module.weight.shape
        return columns, rows
    return None


def linear_targets(model: Any) -> tuple[Target, ...]:
    """Every linear layer of ``model``, with rank 0, by path."""
    found = [
        Target(path, 0, *shape)
        for path, module in model.named_modules()
        if (shape := linear_shape(module)) is not None
    ]
    return tuple(sorted(found, key=lambda target: target.path))
