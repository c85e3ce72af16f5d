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


FREE = -1
"""In place of a forced token."""


@dataclass(frozen=True, slots=True)
class Guide:
    """What one draw must obey, whose places are those of the logits.

    ``allowed`` is (masked, vocab), true where the token may be drawn, for the places ``masked``
    alone. ``forced`` has for every place the token that it must draw, or FREE.
    """

    masked: tuple[int, ...]
    allowed: mx.array | None
    forced: tuple[int, ...]


class Masks:
    """Computes the masks of several rows at once, beside the device and without the GIL."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._words = -(-vocabulary // _WORD_BITS)
        self._executor: LLExecutor | None = None

    def guide(
        self,
        matchers: Sequence[Matcher | None],
        ahead: Sequence[Sequence[int]],
    ) -> Guide | None:
        """What may follow each row's text and each of the tokens ``ahead`` of it.

        A row has ``len(ahead) + 1`` places. A matcher that fails says so afterwards. None where
        all is free.
        """
        if all(matcher is None for matcher in matchers):
            return None
        forced: list[int] = []
        masked: list[tuple[int, Matcher]] = []
        for matcher, tokens in zip(matchers, ahead, strict=True):
            if matcher is None:
                forced += [FREE] * (len(tokens) + 1)
                continue
            forced += tokens
            for token in tokens:
                matcher.take(token)
            following = matcher.forced()
            if not following and not matcher.is_whole:
                masked.append((len(forced), matcher))
            forced.append(following[0] if following else FREE)
        allowed = self._allowed([matcher for _, matcher in masked]) if masked else None
        for matcher, tokens in zip(matchers, ahead, strict=True):
            if matcher is not None and tokens:
                matcher.take_back(len(tokens))
        return Guide(tuple(place for place, _ in masked), allowed, tuple(forced))

    def _allowed(self, matchers: Sequence[Matcher]) -> mx.array:
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
