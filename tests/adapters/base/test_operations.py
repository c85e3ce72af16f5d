"""A model with the fast operations is the same model, and no other one changes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import QuantizedKVCache
from mlx_lm.utils import load_model

from adapters.base.operations import attention, use_fast_operations

ROWS, HEADS, KEY_HEADS, WIDTH = 2, 6, 2, 16
LENGTH, SEEN = 30, 40


def heads(seed: int, count: int, length: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """The same numbers for the same seed."""
    shape = (ROWS, count, length, WIDTH)
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def masks() -> dict[str, Any]:
    """One of each kind that mlx-lm's models pass."""
    own = mx.arange(SEEN - LENGTH, SEEN)[:, None] >= mx.arange(SEEN)
    padded = own & (mx.arange(SEEN) >= mx.array([0, 7])[:, None, None, None])
    added = mx.where(own, 0.0, -1e9)
    return {"none": None, "causal": "causal", "true": own, "padded": padded, "added": added}


@pytest.mark.parametrize("name", masks())
def test_attention_is_that_of_mlx_lm_under_every_mask(name: str) -> None:
    """Grouped heads, more keys than queries, and rows with padding on the left."""
    inputs = heads(0, HEADS, LENGTH), heads(1, KEY_HEADS, SEEN), heads(2, KEY_HEADS, SEEN)
    mine = attention(*inputs, cache=None, scale=0.25, mask=masks()[name])
    own: Any = scaled_dot_product_attention
    theirs = own(*inputs, cache=None, scale=0.25, mask=masks()[name])
    assert mine.shape == theirs.shape
    assert mx.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_attention_has_the_gradient_of_mlx_lms() -> None:
    """By queries, keys and values."""
    inputs = heads(0, HEADS, LENGTH), heads(1, KEY_HEADS, SEEN), heads(2, KEY_HEADS, SEEN)

    def gradients(function: Any) -> Any:
        def summed(*each: mx.array) -> mx.array:
            made = function(*each, cache=None, scale=0.25, mask="causal")
            return mx.sum(mx.square(made))

        return mx.grad(summed, argnums=(0, 1, 2))(*inputs)

    ours, theirs = gradients(attention), gradients(scaled_dot_product_attention)
    for mine, other in zip(ours, theirs, strict=True):
        assert mx.allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_what_is_not_float32_is_left_to_mlx_lm() -> None:
    """16-bit arrays and quantized caches come out bit for bit as there."""
    inputs = [
        heads(seed, count, LENGTH, mx.float16) for seed, count in ((0, HEADS), (1, 2), (2, 2))
    ]
    own: Any = scaled_dot_product_attention
    given: dict[str, Any] = {"cache": None, "scale": 0.25, "mask": "causal"}
    ours: Any = attention
    assert mx.array_equal(ours(*inputs, **given), own(*inputs, **given))
    cache: Any = QuantizedKVCache(group_size=64, bits=8)
    wide = [mx.random.normal((1, n, LENGTH, 64), key=mx.random.key(n)) for n in (6, 2, 3)]
    keys, values = cache.update_and_fetch(wide[1], wide[2][:, :2])
    given = {"cache": cache, "scale": 0.25, "mask": None}
    # mlx-lm scales the quantized queries where they lie.
    made = ours(mx.array(wide[0]), keys, values, **given)
    assert mx.array_equal(made, own(mx.array(wide[0]), keys, values, **given))


@pytest.mark.skipif(sys.platform != "linux", reason="MLX's own operations are used elsewhere")
def test_a_model_computes_the_same_and_its_class_is_left_alone(tiny_model: Path) -> None:
    """Every attention and MLP is bound, logits agree, and a model loaded later has neither."""
    model, _ = load_model(tiny_model)
    untouched, _ = load_model(tiny_model)
    for each in (model, untouched):
        each.set_dtype(mx.float32)
    layers: Any = model.layers
    assert use_fast_operations(model) == 2 * len(layers)
    tokens = mx.random.randint(0, 500, (4, 60), key=mx.random.key(9))
    assert mx.allclose(model(tokens), untouched(tokens), rtol=1e-4, atol=1e-4)
    other: Any = untouched
    assert type(other.layers[0].mlp) is not type(layers[0].mlp)
    assert isinstance(layers[0].mlp, type(other.layers[0].mlp))
    assert use_fast_operations(model) == 0
