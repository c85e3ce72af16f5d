"""What a model gives to its output layer: the hidden states behind the final norm.

mlx-lm's models have no common way to ask for them. So the model's own forward runs until it calls
its output layer, where something else stands for that moment: masks, norms and scaling are the
model's own, no class is changed, and no logits are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

_PROBE = 3
_TOLERANCE = 1e-3
"""Relative, between the largest logit and the one that should be it."""


class HeadNotFound(Exception):
    """No module of the model makes its logits from one array that can be told apart."""


class _Reached(Exception):
    def __init__(self, states: mx.array) -> None:
        super().__init__("the forward is at its output layer")
        self.states = states


class _Stop:
    """In the place of a linear layer, or of an embedding that is the output layer too."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, x: mx.array) -> mx.array:
        if not hasattr(self._layer, "as_linear"):
            raise _Reached(x)
        rows: mx.array = self._layer(x)
        return rows

    def as_linear(self, x: mx.array) -> mx.array:
        raise _Reached(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class OutputLayer:
    """The output layer of ``model``, found at its first use. Device thread only.

    Made before anything stands in the place of the model's own layers; what comes there later may
    be the output layer all the same.
    """

    def __init__(self, model: Module) -> None:
        self._model: Any = model
        self._candidates = _matrices(model)
        self._place: tuple[Any, str] | None = None

    def input(self, tokens: mx.array, caches: Sequence[Any] | None = None) -> mx.array:
        """The states (rows, length, width) of ``tokens`` (rows, length), lazily.

        ``caches`` are extended as the model's own forward extends them. Raises HeadNotFound.
        """
        states = self._stopped(self._place or self.find(), tokens, caches)
        if states is None:
            raise HeadNotFound("the forward went past the output layer that was found")
        return states

    def find(self) -> tuple[Any, str]:
        """Where the layer stands: the first of those that could make logits and does.

        What a layer makes of the states must have its maximum where the model's logits have it,
        however the model scales and caps them. Raises HeadNotFound where that holds for none.
        """
        if self._place is None:
            tokens = mx.arange(_PROBE, dtype=mx.int32)[None]
            logits: mx.array = self._model(tokens)
            self._place = next(
                (
                    place
                    for place, rows in self._candidates
                    if rows == logits.shape[-1] and self._is_head(place, tokens, logits)
                ),
                None,
            )
        if self._place is None:
            raise HeadNotFound("no layer of the model makes its logits from one array")
        return self._place

    def _is_head(self, place: tuple[Any, str], tokens: mx.array, logits: mx.array) -> bool:
        try:
            states = self._stopped(place, tokens, None)
        except (AttributeError, TypeError, ValueError):
            return False  # the model does more with this layer than calling it
        if states is None or states.ndim != 3 or states.shape[:2] != logits.shape[:2]:
            return False
        layer = place[0][place[1]]
        best = mx.argmax(getattr(layer, "as_linear", layer)(states), axis=-1)
        theirs = logits.astype(mx.float32)
        reached = mx.take_along_axis(theirs, best[..., None], axis=-1)[..., 0]
        return bool(mx.allclose(reached, theirs.max(axis=-1), rtol=_TOLERANCE).item())

    def _stopped(
        self, place: tuple[Any, str], tokens: mx.array, caches: Sequence[Any] | None
    ) -> mx.array | None:
        """What the layer at ``place`` is called with; None where it is not called."""
        with _standing_in(*place):
            try:
                self._model(tokens, cache=caches)
            except _Reached as reached:
                return reached.states
        return None


def _matrices(model: Any) -> list[tuple[tuple[Any, str], int]]:
    """Holder and name of each module with a matrix, and its rows; nearest to the root first."""
    found = []
    for path, module in sorted(model.named_modules(), key=lambda each: each[0].count(".")):
        weight = module.get("weight")
        if not path or not isinstance(weight, mx.array) or weight.ndim != 2:
            continue
        *parents, last = path.split(".")
        holder = model
        for name in parents:
            holder = holder[int(name)] if isinstance(holder, list) else holder[name]
        if isinstance(holder, dict):
            found.append(((holder, last), weight.shape[0]))
    return found


@contextmanager
def _standing_in(holder: Any, name: str) -> Iterator[None]:
    layer = holder[name]
    holder[name] = _Stop(layer)
    try:
        yield
    finally:
        holder[name] = layer
