"""A KV cache of 8 or 4 bits that is batched, cut and padded as mlx-lm's plain one.

What ``mx.quantize`` makes of a layer's keys and values lies in two plain caches of mlx-lm: the
codes in one, the scales and biases of their groups in the next. They hold the same tokens of the
same rows at the same places. So whatever merges, extends, filters, extracts, trims, pads or keeps
plain caches does all that here, with the same offsets, masks and padding; only for the time of a
forward do two of them look like one cache to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, make_prompt_cache

from adapters.errors import BaseError

GROUP_SIZES = (32, 64, 128)
"""The numbers of values that may share a scale and a bias."""

_FEW_TOKENS = 8
"""Up to so many tokens a row, a GPU's product reads the codes; its scores are kept for a whole
piece, where for more tokens dequantized keys need the fused attention alone."""

_Triple = tuple[mx.array, mx.array, mx.array]


@dataclass(frozen=True, slots=True)
class KVQuantization:
    """How keys and values are kept: ``bits`` 4 or 8, in groups of ``group_size`` values."""

    bits: int
    group_size: int = 64

    def bytes_per_value(self, scale_bytes: int) -> float:
        """Bytes that one key or value takes, with its share of a scale and a bias."""
        return self.bits / 8 + 2 * scale_bytes / self.group_size

    def make_caches(self, model: Module) -> list[Any]:
        """Empty caches of one row: two for each layer."""
        plain: Any = KVCache
        return [plain() for _ in make_prompt_cache(model) for _ in range(2)]

    def layers(self, caches: Sequence[Any], *, tokens: int) -> list[Any]:
        """What to give the model as its caches, for one forward of ``tokens`` tokens a row."""
        on_gpu = mx.default_device().type == mx.DeviceType.gpu
        kind = _Packed if on_gpu and tokens <= _FEW_TOKENS else _Dequantized
        return [
            kind(self, codes, scales)
            for codes, scales in zip(caches[::2], caches[1::2], strict=True)
        ]

    def refuse_unfit(self, model: Module, path: Path) -> None:
        """Raise BaseError where this model's keys and values cannot be kept so; runs it thrice."""
        plain = make_prompt_cache(model)
        others = sorted({type(cache).__name__ for cache in plain if type(cache) is not KVCache})
        if others:
            raise BaseError(
                f"{path}: kv_bits quantizes plain KV caches, and this architecture has others "
                f"({', '.join(others)}). Start without --kv-bits."
            )
        forward: Any = model
        mx.eval(forward(mx.zeros((1, 1), mx.int32), cache=plain))
        widths = {part.shape[-1] for cache in plain for part in (cache.keys, cache.values)}
        if any(width % self.group_size for width in widths):
            fits = [size for size in GROUP_SIZES if not any(width % size for width in widths)]
            cure = f"--kv-group-size {fits[-1]}" if fits else "no --kv-bits"
            raise BaseError(
                f"{path}: keys and values are {', '.join(map(str, sorted(widths)))} wide, which "
                f"groups of {self.group_size} do not divide. Start with {cure}."
            )
        for tokens in (1, _FEW_TOKENS + 1):
            layers = self.layers(self.make_caches(model), tokens=tokens)
            try:
                mx.eval(forward(mx.zeros((1, tokens), mx.int32), cache=layers))
            except Exception as error:  # whatever the model does with a cache that is not plain
                raise BaseError(
                    f"{path}: this architecture cannot read a quantized KV cache "
                    f"({type(error).__name__}: {error}). Start without --kv-bits."
                ) from error


class _Dequantized:
    """Two caches that hold codes and scales, as one cache that gives out numbers."""

    def __init__(self, form: KVQuantization, codes: Any, scales: Any) -> None:
        self._form = form
        self._codes = codes
        self._scales = scales

    @property
    def offset(self) -> Any:
        """The position of the next token, of each row where there are several."""
        return self._codes.offset

    def make_mask(self, *arguments: Any, **options: Any) -> Any:
        """The mask of the caches inside."""
        return self._codes.make_mask(*arguments, **options)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Quantize and add (rows, heads, tokens, width); all keys and values, these included."""
        form = self._form
        parts = [
            mx.quantize(each, group_size=form.group_size, bits=form.bits) for each in (keys, values)
        ]
        codes = self._codes.update_and_fetch(*(part[0] for part in parts))
        scales = self._scales.update_and_fetch(
            *(mx.concatenate([scale, bias], axis=-1) for _, scale, bias in parts)
        )
        found = [
            (code, *mx.split(scale, 2, axis=-1)) for code, scale in zip(codes, scales, strict=True)
        ]
        return self._given(found[0]), self._given(found[1])

    def _given(self, part: _Triple) -> Any:
        return dequantize(*part, self._form)


class _Packed(_Dequantized):
    """The same as triples: mlx-lm's attention looks for ``bits`` and multiplies codes."""

    def __init__(self, form: KVQuantization, codes: Any, scales: Any) -> None:
        super().__init__(form, codes, scales)
        self.bits = form.bits
        self.group_size = form.group_size

    def _given(self, part: _Triple) -> Any:
        return part


def dequantize(
    codes: mx.array, scales: mx.array, biases: mx.array, form: KVQuantization
) -> mx.array:
    """What ``mx.dequantize`` gives, which on a CPU takes twice as long."""
    if mx.default_device().type == mx.DeviceType.gpu:
        return mx.dequantize(codes, scales, biases, group_size=form.group_size, bits=form.bits)
    values = codes.view(mx.uint8)
    if form.bits == 4:
        values = mx.stack([values & 15, values >> 4], axis=-1).flatten(-2)
    grouped = values.astype(scales.dtype).reshape(*scales.shape, form.group_size)
    return (grouped * scales[..., None] + biases[..., None]).flatten(-2)
