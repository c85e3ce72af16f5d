"""A model's attention and SwiGLU in the form that a CPU computes fast.

mlx-lm's models call two functions of mlx-lm by their global names. ``use_fast_operations`` gives
each such module a class of its own, whose forward is the same code with these two names bound to
the functions here; mlx-lm itself, and every other model in the process, stay as they are.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models import activations
from mlx_lm.models import base as models

from adapters.base.elementwise import is_faster, softmax, swiglu

# Added to the scores of masked positions: far below any score, and finite.
_MASKED = -1e30


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """mlx-lm's ``scaled_dot_product_attention``, which still computes what it computes faster.

    Shapes: queries (rows, heads, length, width), keys and values (rows, key heads, keys, width).
    ``mask`` is None, "causal", true where a key is seen, or added to the scores.
    """
    rows, heads, length, width = queries.shape
    # A quantized cache returns its keys as triples, which only mlx-lm reads.
    plain = sinks is None and not hasattr(cache, "bits")
    if not plain or not is_faster(rows * heads * length * keys.shape[2], queries.dtype):
        own: Any = models.scaled_dot_product_attention
        other: mx.array = own(
            queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks
        )
        return other
    key_heads, seen = keys.shape[1], keys.shape[2]
    # The heads that share a key head are one product with it.
    grouped = (queries * scale).reshape(rows, key_heads, -1, width)
    scores = grouped @ keys.swapaxes(-1, -2)
    if mask is not None:
        scores = scores.reshape(rows, heads, length, seen) + _added(mask, length, seen)
        scores = scores.reshape(rows, key_heads, -1, seen)
    return (softmax(scores) @ values).reshape(rows, heads, length, -1)


def use_fast_operations(model: Module) -> int:
    """Bind the two names in every module of ``model`` that uses them; how many modules did."""
    untyped: Any = model.named_modules
    found = [module for _, module in untyped() if _bindings(type(module))]
    for module in found:
        module.__class__ = _bound(type(module))
    return len(found)


_FAST = {
    "scaled_dot_product_attention": (models.scaled_dot_product_attention, attention),
    "swiglu": (activations.swiglu, swiglu),
}
_bound_classes: dict[type, type] = {}


def _bindings(kind: type) -> dict[str, Any]:
    """The names that the forward of ``kind`` uses for mlx-lm's own functions, with ours."""
    forward = kind.__call__
    if not isinstance(forward, FunctionType):
        return {}
    used = forward.__code__.co_names
    return {
        name: fast
        for name, (own, fast) in _FAST.items()
        if name in used and forward.__globals__.get(name) is own
    }


def _bound(kind: type) -> type:
    """The subclass of ``kind`` with our functions; one for each class."""
    if kind not in _bound_classes:
        forward: Any = kind.__call__
        names = forward.__globals__ | _bindings(kind)
        call = FunctionType(
            forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
        )
        call.__kwdefaults__ = forward.__kwdefaults__
        _bound_classes[kind] = type(kind.__name__, (kind,), {"__call__": call})
    return _bound_classes[kind]


def _added(mask: mx.array | str, length: int, seen: int) -> mx.array:
    if isinstance(mask, str):
        mask = mx.arange(seen - length, seen)[:, None] >= mx.arange(seen)
    if mask.dtype == mx.bool_:
        return (mask.astype(mx.float32) - 1) * -_MASKED
    return mask
