"""Attention over a quantized KV cache of a batch, against each row's numbers alone."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from adapters.base.operations import attention
from adapters.base.quantized_kv import KVQuantization
from server.engine.ragged import merge_ragged

_HEADS, _KEY_HEADS, _WIDTH = 4, 2, 64
_SCALE = _WIDTH**-0.5
_STARTS = (5, 40, 12)
"""Tokens that the rows hold before they step together: two are padded."""
_STEPS = ((1, (0, 0, 0)), (4, (0, 3, 1)), (1, (0, 0, 0)), (20, (0, 0, 0)))
"""Tokens of a step, and how many of them each row takes back: refused guesses leave rows behind."""


def largest_difference(bits: int, dtype: mx.Dtype) -> float:
    """How far off the batch is, in units of the largest number; short steps, then a longer one.

    On a GPU a short step's product reads codes and the longer one's numbers.
    """
    form = KVQuantization(bits)
    model: Any = _OneLayer()
    mx.random.seed(17)
    rows = [_Row(length, dtype) for length in _STARTS]
    own = []
    for row in rows:
        caches = form.make_caches(model)
        form.layers(caches, tokens=row.length)[0].update_and_fetch(row.keys, row.values)
        own.append(caches)
    caches = merge_ragged(own)
    worst = 0.0
    for tokens, taken_back in _STEPS:
        queries = _draw(len(rows), _HEADS, tokens, dtype)
        keys, values = (_draw(len(rows), _KEY_HEADS, tokens, dtype) for _ in range(2))
        (layer,) = form.layers(caches, tokens=tokens)
        mask = layer.make_mask(tokens)
        all_keys, all_values = layer.update_and_fetch(keys, values)
        # mlx-lm scales the queries of a quantized cache where they lie.
        found = attention(mx.array(queries), all_keys, all_values, layer, _SCALE, mask)
        for index, row in enumerate(rows):
            at = slice(index, index + 1)
            wanted = row.step(queries[at], keys[at], values[at], form)
            apart = mx.max(mx.abs(found[at].astype(mx.float32) - wanted))
            share: Any = apart / mx.max(mx.abs(wanted))
            worst = max(worst, share.item())
            row.take_back(taken_back[index])
        for cache in caches:
            cache.roll_back(taken_back)
    return worst


class _OneLayer:
    """What a model must tell for its caches to be made."""

    layers = (None,)


class _Row:
    """A row's keys and values as floats; attention in float32 over what quantizing leaves."""

    def __init__(self, length: int, dtype: mx.Dtype) -> None:
        self.length = length
        self.keys, self.values = (_draw(1, _KEY_HEADS, length, dtype) for _ in range(2))

    def take_back(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        self.keys, self.values = (
            each[:, :, : each.shape[2] - count] for each in (self.keys, self.values)
        )

    def step(
        self, queries: mx.array, keys: mx.array, values: mx.array, form: KVQuantization
    ) -> mx.array:
        """Attention of ``queries`` over all tokens, the new ones included."""
        self.keys = mx.concatenate([self.keys, keys], axis=2)
        self.values = mx.concatenate([self.values, values], axis=2)
        left = [_rounded(each, form) for each in (self.keys, self.values)]
        repeated = [mx.repeat(each, _HEADS // _KEY_HEADS, axis=1) for each in left]
        scores = (queries.astype(mx.float32) * _SCALE) @ repeated[0].swapaxes(-1, -2)
        length, seen = scores.shape[-2:]
        causal = mx.arange(seen - length, seen)[:, None] >= mx.arange(seen)
        weights = mx.softmax(mx.where(causal, scores, -1e30), axis=-1)
        return weights @ repeated[1]


def _rounded(x: mx.array, form: KVQuantization) -> mx.array:
    size, bits = form.group_size, form.bits
    parts = mx.quantize(x, group_size=size, bits=bits)
    return mx.dequantize(*parts, group_size=size, bits=bits).astype(mx.float32)


def _draw(rows: int, heads: int, tokens: int, dtype: mx.Dtype) -> mx.array:
    return mx.random.normal((rows, heads, tokens, _WIDTH)).astype(dtype)
