"""Which tokens the constrained rows of a batch may draw next."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor

from server.engine.grammars import Matcher

_WORD_BITS = 32
_MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class Guide:
    """What one step's draw must obey.

    ``allowed`` is (rows, vocab), true where the row may draw the token, for the rows at ``rows``
    alone. ``forced`` has for each row of the batch the token that it must draw, or -1.
    """

    rows: tuple[int, ...]
    allowed: mx.array | None
    forced: tuple[int, ...]


class Masks:
    """Computes the masks of several rows at once, beside the device and without the GIL."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._words = -(-vocabulary // _WORD_BITS)
        self._executor: LLExecutor | None = None

    def allowed(self, matchers: Sequence[Matcher]) -> mx.array:
        """What may follow each text, (rows, vocab). A matcher that fails says so afterwards."""
        if self._executor is None:
            self._executor = LLExecutor(num_threads=min(os.cpu_count() or 1, _MOST_THREADS))
        bits = np.zeros((len(matchers), self._words), np.int32)
        self._executor.unsafe_compute_mask_ptr(
            [(matcher.native, index) for index, matcher in enumerate(matchers)],
            bits.ctypes.data,
            bits.shape[1] * bits.itemsize,
            bits.shape[0],
        )
        unpacked = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
        return mx.array(unpacked[:, : self._vocabulary].view(np.bool_))
