"""Keys and values of 8 and 4 bits: MLX's numbers, and the models that can have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models import gemma3_text
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import KVCache, make_prompt_cache

from adapters.base.load import load_base
from adapters.base.quantized_kv import KVQuantization, _Dequantized, _Packed, dequantize
from adapters.errors import BaseError

HEADS, WIDTH = 2, 32

_cache: Any = KVCache


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [32, 64])
def test_our_numbers_are_those_of_mlx(bits: int, group_size: int) -> None:
    """Codes, scales and biases mean the same."""
    x = mx.random.normal((2, 3, 5, 128), key=mx.random.key(bits))
    parts = mx.quantize(x, group_size=group_size, bits=bits)
    theirs = mx.dequantize(*parts, group_size=group_size, bits=bits)
    mine = dequantize(*parts, KVQuantization(bits, group_size))
    assert mx.allclose(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_gpus_product_of_codes_is_that_of_the_dequantized_numbers(bits: int) -> None:
    """mlx-lm's attention takes the one for triples, under the mask of padded rows."""
    form = KVQuantization(bits, 32)
    queries = mx.random.normal((2, 4, 3, WIDTH), key=mx.random.key(1))
    given = [mx.random.normal((2, HEADS, 3, WIDTH), key=mx.random.key(seed)) for seed in (2, 3)]
    found = []
    for kind in (_Packed, _Dequantized):
        short, long = ([_cache(), _cache()] for _ in range(2))
        for caches, tokens in ((short, 2), (long, 5)):
            _Dequantized(form, *caches).update_and_fetch(
                *(mx.random.normal((1, HEADS, tokens, WIDTH), key=mx.random.key(4)),) * 2
            )
        layer = kind(form, *(one.merge([one, two]) for one, two in zip(short, long, strict=True)))
        mask = layer.make_mask(3)
        keys, values = layer.update_and_fetch(*given)
        own: Any = scaled_dot_product_attention
        found.append(own(mx.array(queries), keys, values, cache=layer, scale=0.2, mask=mask))
    assert mx.allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_caches_that_are_not_plain_are_named(tmp_path: Path) -> None:
    """A sliding window's cache cannot be quantized; nothing is left out in silence."""
    arguments = gemma3_text.ModelArgs(
        model_type="gemma3_text",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=32,
        head_dim=32,
        vocab_size=11,
        sliding_window_pattern=2,
    )
    with pytest.raises(BaseError, match=r"others \(RotatingKVCache\).*without --kv-bits"):
        KVQuantization(8).refuse_unfit(gemma3_text.Model(arguments), tmp_path)


def test_groups_that_do_not_divide_the_width_are_refused_with_one_that_does(
    tiny_model: Path,
) -> None:
    """The tiny model's heads are 32 wide."""
    model = load_base(tiny_model).model
    with pytest.raises(BaseError, match=r"32 wide.*groups of 64.*--kv-group-size 32"):
        KVQuantization(8, 64).refuse_unfit(model, tiny_model)
    KVQuantization(8, 32).refuse_unfit(model, tiny_model)


def test_a_model_that_looks_into_its_cache_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Some architectures read more of a cache than attention needs."""

    class Looks(Module):
        """Reads the keys past ``update_and_fetch``."""

        layers = (None,)

        def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
            keys = mx.zeros((1, 1, tokens.shape[1], WIDTH))
            cache[0].update_and_fetch(keys, keys)
            seen: mx.array = cache[0].keys
            return seen

    untyped: Any = Looks
    with pytest.raises(BaseError, match=r"cannot read a quantized.*AttributeError.*'keys'"):
        KVQuantization(8, 32).refuse_unfit(untyped(), tmp_path)


def test_a_models_logits_move_little_with_8_bits_and_more_with_4(tiny_model: Path) -> None:
    """In one piece as in many: a token's keys are quantized before anything sees them."""
    model: Any = load_base(tiny_model).model
    tokens = mx.random.randint(0, 500, (1, 40), key=mx.random.key(3))

    def logits(form: KVQuantization | None, piece: int) -> np.ndarray[Any, Any]:
        caches = make_prompt_cache(model) if form is None else form.make_caches(model)
        parts = [tokens[:, start : start + piece] for start in range(0, 40, piece)]
        found = [
            model(part, cache=caches if form is None else form.layers(caches, tokens=piece))
            for part in parts
        ]
        return np.array(mx.concatenate(found, axis=1))

    plain = logits(None, 40)
    apart = {bits: np.abs(logits(KVQuantization(bits, 32), 40) - plain).mean() for bits in (8, 4)}
    assert 0 < apart[8] < apart[4] / 4
    one, many = (logits(KVQuantization(8, 32), piece) for piece in (40, 8))
    assert np.abs(one - many).max() < 1e-3
