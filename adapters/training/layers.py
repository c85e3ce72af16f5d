"""The trainable LoRA layer, and where its dropout masks come from."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module


class DropoutSeed:
    """What a forward's dropout masks are drawn from; None while evaluating: nothing is dropped.

    Shared by the layers of one tree. Never MLX's global state, so that the recomputation in a
    backward pass and a resumed run draw the same masks.
    """

    def __init__(self) -> None:
        self.at: tuple[int, ...] | None = None

    def key(self, layer: int) -> mx.array:
        """The random key of one layer; a function of the place (seed, stage, step, …) alone."""
        place = (*(self.at or ()), layer)
        digest = hashlib.sha256(struct.pack(f"<{len(place)}q", *place)).digest()
        return mx.random.key(int.from_bytes(digest[:8], "little"))


class LoraLinear(Module):
    """A frozen linear layer plus ``scale * (dropout(x) @ A) @ B`` (Hu et al. 2021, eq. 3).

    A (in, rank) and B (rank, out) are float32 always; the product is computed in the type of ``x``
    with the scale folded into B in float32, as the served layer does, so that a 16-bit base stays
    16-bit and what is served is what was trained.
    """

    def __init__(
        self, linear: Module, *, scale: float, dropout: float, index: int, seed: DropoutSeed
    ) -> None:
        begin: Any = super().__init__
        begin()
        self.linear = linear
        self.scale = scale
        self.dropout = dropout
        self._index = index
        self._seed = seed

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        a = self["lora_a"].astype(x.dtype)
        b = (self.scale * self["lora_b"]).astype(x.dtype)
        base: mx.array = self.linear(x)
        made: mx.array = base + (self._dropped(x) @ a) @ b
        return made

    def _dropped(self, x: mx.array) -> mx.array:
        if not self.dropout or self._seed.at is None:
            return x
        keep = 1 - self.dropout
        mask = mx.random.bernoulli(keep, x.shape, key=self._seed.key(self._index))
        dropped: mx.array = mx.where(mask, x * (1 / keep), mx.array(0, x.dtype))
        return dropped
