"""The CPU's float32 layers: same values, same parameters, gradients by one product."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_flatten

from adapters.base import linear

MODES = [("affine", 32, 4), ("affine", 64, 8), ("mxfp4", 32, 4), ("mxfp8", 32, 8)]
FORMS = [{"dense": False}, {"dense": True}, {"dense": True, "blocks": True}]
ROWS = [1, 2, 5, 16, 300]


class Pair(Module):
    """An embedding and two linear layers, one of them inside a list."""

    def __init__(self, *, bias: bool, mode: str, group_size: int, bits: int) -> None:
        begin: Any = super().__init__
        begin()
        kind: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}
        self.embed = QuantizedEmbedding(40, 64, **kind)
        self.layers = [QuantizedLinear(64, 96, bias=bias, **kind)]
        self.plain = Linear(96, 8)


def pair(mode: str = "affine", group_size: int = 32, bits: int = 4, *, bias: bool = False) -> Any:
    """A small float32 model with the same numbers each time."""
    mx.random.seed(7)
    model: Any = Pair(bias=bias, mode=mode, group_size=group_size, bits=bits)
    if bias:
        model.layers[0].bias = mx.random.normal((96,))
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def close(left: mx.array, right: mx.array) -> None:
    """Equal but for the order of the sums."""
    np.testing.assert_allclose(np.array(left), np.array(right), rtol=1e-4, atol=1e-4)


def flat(model: Any) -> dict[str, mx.array]:
    """Parameters by name."""
    arrays: Any = tree_flatten(model.parameters())
    return dict(arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("mode", "group_size", "bits"), MODES)
def test_a_layer_computes_what_mlx_s_own_computes(
    form: dict[str, bool], rows: int, mode: str, group_size: int, bits: int
) -> None:
    """Another product, the same matrix: for each mode, with few rows and with many."""
    model = pair(mode, group_size, bits)
    x = mx.random.normal((rows, 64))
    expected = (model.layers[0](x), model.embed.as_linear(x), model.embed(mx.arange(rows) % 40))
    assert linear.use_float32_layers(model, **form) == 2
    found = (model.layers[0](x), model.embed.as_linear(x), model.embed(mx.arange(rows) % 40))
    for left, right in zip(found, expected, strict=True):
        assert left.dtype == mx.float32
        close(left, right.astype(mx.float32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 3, 64)])
def test_the_bias_is_added_whatever_the_batch_s_shape(
    form: dict[str, bool], shape: tuple[int, ...]
) -> None:
    """Vectors, rows and batches of rows go through the same layer."""
    model = pair(bias=True)
    x = mx.random.normal(shape)
    expected = model.layers[0](x)
    linear.use_float32_layers(model, **form)
    close(model.layers[0](x), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", ROWS)
def test_the_gradient_of_the_input_is_one_product_with_the_matrix(
    form: dict[str, bool], rows: int
) -> None:
    """Training needs d(input) = d(output) W, in both forms and also where forward is quantized."""
    model = pair()
    matrix = linear._matrix(model.layers[0])
    linear.use_float32_layers(model, **form)
    x, cotangent = mx.random.normal((rows, 64)), mx.random.normal((rows, 96))
    _, (gradient,) = mx.vjp(model.layers[0], [x], [cotangent])
    close(gradient, cotangent @ matrix)


def test_the_gradient_does_not_grow_with_the_number_of_blocks() -> None:
    """Autograd would hold one of the input's size for each block before it adds them up."""
    layer = QuantizedLinear(256, 16_384, bias=False, group_size=32, bits=8)
    layer.set_dtype(mx.float32)
    few = linear.Float32Linear(layer, dense=True, blocks=True)
    x, cotangent = mx.random.normal((16, 256)), mx.random.normal((16, 16_384))
    mx.eval(x, cotangent)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    _, gradient = mx.vjp(few, [x], [cotangent])
    mx.eval(gradient)
    assert mx.get_peak_memory() - before < cotangent.nbytes + 4 * x.nbytes


@pytest.mark.parametrize("form", FORMS)
def test_names_and_arrays_of_the_parameters_stay_the_base_s(form: dict[str, bool]) -> None:
    """Files, fingerprints and exports see the quantized model, never the matrices beside it."""
    model = pair(bias=True)
    before = flat(model)
    linear.use_float32_layers(model, **form)
    after = flat(model)
    assert after.keys() == before.keys()
    for name, array in before.items():
        assert mx.array_equal(after[name], array), name
    assert not any(name.startswith(("embed", "layers")) for name in trainable(model))


def trainable(model: Any) -> list[str]:
    """Names of the parameters that an optimizer would change."""
    arrays: Any = tree_flatten(model.trainable_parameters())
    return [name for name, _ in arrays]


def test_an_output_that_no_block_divides_loses_and_gains_nothing() -> None:
    """The last block is filled with zeros, which no caller sees."""
    mx.random.seed(3)
    layer = QuantizedLinear(64, 70, bias=False, group_size=32, bits=8)
    layer.set_dtype(mx.float32)
    x = mx.random.normal((3, 64))
    expected = layer(x)
    found = linear.Float32Linear(layer, dense=True, blocks=True)(x)
    assert found.shape == (3, 70)
    close(found, expected)


def test_a_layer_is_still_recognised_as_quantized() -> None:
    """mlx-lm's LoRA wraps a QuantizedLinear by its class: ours must be one."""
    model = pair()
    linear.use_float32_layers(model, dense=True)
    assert isinstance(model.layers[0], QuantizedLinear)
    assert isinstance(model.embed, QuantizedEmbedding)
    assert (model.layers[0].bits, model.layers[0].group_size) == (4, 32)
    assert type(model.plain) is Linear


def test_the_size_of_the_matrices_is_known_before_they_are_made() -> None:
    """The budget is decided on what the matrices will take: 4 bytes for each weight."""
    model = pair()
    assert linear.dense_bytes(model) == 4 * (40 * 64 + 96 * 64)
    linear.use_float32_layers(model, dense=True)
    assert linear.dense_bytes(model) == 0, "a replaced layer is not replaced again"
    assert linear.use_float32_layers(model, dense=True) == 0
