"""Quantized layers in the form that a CPU computes fast: as float32 matrix products.

The quantized arrays stay the layer's parameters, under their names. Beside them a layer may keep
its dequantized matrix; without one it dequantizes in each call, forward (but for the few rows where
the quantized product is faster) and backward. So the gradient reaches the layer's input by one
GEMM, where MLX's own gradient of a quantized product takes as long as that product for every row.

The matrix is kept as MLX stores weights, (out, in), and multiplied as a transposed view: with
OpenBLAS that was as fast as an (in, out) copy or faster at 1, 4, 16 and 128 rows for every shape of
the embedded model, and twice as fast for its tied head.

Beside it a layer may keep the matrix once more, cut into blocks: see ``blocks``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

from adapters.base import blocks as in_blocks

# Up to so many rows MLX's quantized product is faster than dequantizing for a GEMM: measured with
# float32 scales at 576x1536 (4 bits: 0.8 against 1.3 ms at one row, 1.5 against 1.3 at two) and
# 576x49152 (8 bits: 97 against 123 ms at four rows, 146 against 133 at six).
_QUANTIZED_ROWS = {8: 4}


class Float32Linear(QuantizedLinear):
    """A QuantizedLinear whose product is a float32 GEMM."""

    def __init__(self, layer: QuantizedLinear, *, dense: bool, blocks: bool = False) -> None:
        """Take over ``layer``'s arrays and make what is to be kept beside them."""
        _take_over(self, layer, dense=dense, blocks=blocks)

    def __call__(self, x: mx.array) -> mx.array:
        """``x`` (..., in) times the transposed matrix, plus the bias where there is one."""
        y = _product(self, x)
        return mx.add(y, self["bias"]) if "bias" in self else y


class Float32Embedding(QuantizedEmbedding):
    """A QuantizedEmbedding whose use as the output layer is a float32 GEMM."""

    def __init__(self, layer: QuantizedEmbedding, *, dense: bool, blocks: bool = False) -> None:
        """Take over ``layer``'s arrays and make what is to be kept beside them."""
        _take_over(self, layer, dense=dense, blocks=blocks)

    def __call__(self, x: mx.array) -> mx.array:
        """Rows of the matrix for ids ``x``."""
        dense = self.get("_dense")
        rows: mx.array = _matrix(self, rows=x) if dense is None else dense[x]
        return rows

    def as_linear(self, x: mx.array) -> mx.array:
        """``x`` (..., dims) times the transposed matrix: the tied output layer."""
        return _product(self, x)


def dense_bytes(model: Module) -> int:
    """Size of the float32 matrices of all layers that ``use_float32_layers`` replaces."""
    return sum(
        layer.weight.shape[0] * layer.weight.shape[1] * 32 // layer.bits * 4
        for _, layer in _quantized(model)
    )


def use_float32_layers(model: Module, *, dense: bool, blocks: bool = False) -> int:
    """Replace each quantized linear and embedding layer in place; the number replaced.

    The parameters' names and arrays stay. With ``dense`` the matrices are made now, one at a time,
    with ``blocks`` also their blocks, which take as much again.
    """
    replaced = []
    for path, layer in _quantized(model):
        kind = Float32Linear if isinstance(layer, QuantizedLinear) else Float32Embedding
        replaced.append((path, kind(layer, dense=dense, blocks=blocks)))
    for path, layer in replaced:
        _set(model, path, layer)
    return len(replaced)


def _quantized(model: Any) -> list[tuple[str, Any]]:
    """Exactly mlx's own two classes: a subclass has its own arithmetic."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if type(module) in (QuantizedLinear, QuantizedEmbedding)
    ]


def _set(model: Module, path: str, layer: Module) -> None:
    *parents, last = path.split(".")
    holder: Any = model
    for part in parents:
        holder = holder[int(part) if isinstance(holder, list) else part]
    holder[int(last) if isinstance(holder, list) else last] = layer


def _take_over(target: Module, layer: Module, *, dense: bool, blocks: bool) -> None:
    # Not the class's own constructor: it would draw and quantize a random matrix first.
    untyped: Any = Module.__init__
    untyped(target)
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            setattr(target, name, value)
    for name, value in layer.items():
        target[name] = value
    target.freeze()
    if dense:
        # An underscore keeps an array out of parameters(), and so out of files and optimizers.
        target["_dense"] = _matrix(target)
        mx.eval(target["_dense"])
    if dense and blocks:
        target["_blocks"] = in_blocks.cut(target["_dense"].T)
        mx.eval(target["_blocks"])


def _matrix(layer: Any, *, rows: mx.array | None = None) -> mx.array:
    """The layer's matrix (out, in) in float32, or the given rows of it."""
    weight, scales, biases = layer["weight"], layer["scales"], layer.get("biases")
    if rows is not None:
        weight, scales = weight[rows], scales[rows]
        biases = None if biases is None else biases[rows]
    return mx.dequantize(
        weight,
        scales=scales,
        biases=biases,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        dtype=mx.float32,
    )


def _quantized_product(layer: Any, x: mx.array) -> mx.array:
    return mx.quantized_matmul(
        x,
        layer["weight"],
        scales=layer["scales"],
        biases=layer.get("biases"),
        transpose=True,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )


@mx.custom_function
def _in_blocks(x: mx.array, blocks: mx.array, dense: mx.array) -> mx.array:
    return in_blocks.product(x, blocks, dense.shape[0])


# Left to autograd, each block would have a gradient of its own as large as the input.
@_in_blocks.vjp
def _in_blocks_gradient(
    primals: tuple[mx.array, ...], cotangent: mx.array, _y: mx.array
) -> tuple[mx.array, ...]:
    _, blocks, dense = primals
    return cotangent @ dense, mx.zeros_like(blocks), mx.zeros_like(dense)


def _product(layer: Any, x: mx.array) -> mx.array:
    """``x`` times the layer's transposed matrix, differentiable in ``x``."""
    rows = x.size // x.shape[-1]
    dense = layer.get("_dense")
    if dense is not None:
        blocks = layer.get("_blocks")
        if blocks is not None and in_blocks.fits(rows, blocks):
            few: Any = _in_blocks
            y: mx.array = few(x, blocks, dense)
            return y
        return mx.matmul(x, dense.T)

    few = rows <= _QUANTIZED_ROWS.get(layer.bits, 1)

    # Left to autograd, the backward pass would hold every layer's matrix at the same time, and
    # that of a quantized product would be slow.
    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return _quantized_product(layer, x) if few else x @ _matrix(layer).T

    @product.vjp
    def gradient(_x: mx.array, cotangent: mx.array, _y: mx.array) -> mx.array:
        return cotangent @ _matrix(layer)

    call: Any = product
    result: mx.array = call(x)
    return result
