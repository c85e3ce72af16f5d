"""A 16-bit base stays one, whatever its adapters are made of.

On a CPU the product computes in float32; the layers that Metal and CUDA use in 16 bits are shown.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear

from adapters.formats.arrays import from_mlx
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora import AdapterBank, Router
from adapters.shape import LoraShape
from tests.banks import put

WIDTH = 64
HALVES = (mx.bfloat16, mx.float16)


def adapter(rank: int) -> AdapterFiles:
    """A float32 adapter on the layer ``proj``."""
    a, b = mx.random.normal((WIDTH, rank)), mx.random.normal((rank, WIDTH))
    return AdapterFiles(LoraShape(rank, 2.0, -1, ("proj",)), {"proj": (from_mlx(a), from_mlx(b))})


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("length", [1, 5])
def test_a_float32_adapter_does_not_turn_a_16_bit_base_into_float32(
    dtype: mx.Dtype, quantized: bool, length: int
) -> None:
    """FACTS 4, case 10: bare, one adapter, mixed rows, in decode and in prefill."""
    empty: Any = Module
    model = empty()
    linear: Any = Linear(WIDTH, WIDTH, bias=False)
    linear.set_dtype(dtype)
    model.proj = QuantizedLinear.from_linear(linear) if quantized else linear
    router = Router(model)
    bank = AdapterBank(router, budget_bytes=1 << 20, dtype=dtype)
    for name, rank in (("one", 4), ("two", 8)):
        put(bank, name, adapter(rank))
    one, two = bank.acquire("one"), bank.acquire("two")
    x = mx.random.normal((3, length, WIDTH)).astype(dtype)
    for rows in ([None] * 3, [one] * 3, [one, two, None]):
        with router.routing(router.plan(rows)):
            assert model.proj(x).dtype == dtype
    assert bank.nbytes == (4 + 8) * 2 * WIDTH * dtype.size
