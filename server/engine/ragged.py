"""A batch's KV cache whose rows may fall behind each other and take tokens back.

mlx-lm's batch cache takes a row's tokens back by moving all of the row's others, which takes longer
than a decode step (16 rows of 300 tokens: 230 ms against 90). Here only the row's end moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

_MOST_BEHIND = 256
"""Slots that a row may fall behind before its tokens are moved after all."""


_Untyped: Any = BatchKVCache
_plain_cache: Any = KVCache


class RaggedKVCache(_Untyped):  # type: ignore[misc]  # mlx-lm's classes have no types
    """mlx-lm's batch cache, except that row i ends ``behind[i]`` slots before the last one."""

    keys: Any
    values: Any
    offset: Any

    def __init__(self, left_padding: list[int]) -> None:
        super().__init__(left_padding)
        self._behind = [0] * len(left_padding)

    def end_of(self, row: int) -> int:
        """The slot at which ``row`` ends; its first one is ``left_padding[row]``."""
        end: int = self._idx - self._behind[row]
        return end

    def roll_back(self, counts: Sequence[int]) -> None:
        """Take the last ``counts[i]`` tokens of each row i back."""
        self.offset = self.offset - mx.array(list(counts))
        self._behind = [b + count for b, count in zip(self._behind, counts, strict=True)]
        self._close_up()

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add (rows, heads, length, width) at each row's end; all keys and values."""
        start, length = self._idx, keys.shape[2]
        super().update_and_fetch(keys, values)
        if any(self._behind):
            ends = mx.array([start - behind for behind in self._behind])
            slots = ends[:, None, None, None] + mx.arange(length)[None, None, :, None]
            self.keys = _put(self.keys, slots, keys)
            self.values = _put(self.values, slots, values)
        both: tuple[mx.array, mx.array] = self.keys_and_values()
        return both

    def make_mask(self, N: int, return_array: bool = False, **kwargs: Any) -> Any:  # noqa: N803
        """True where a key is seen; mlx-lm's names."""
        if not any(self._behind):
            return super().make_mask(N, return_array, **kwargs)
        ends = self._idx - mx.array(self._behind)
        queries = ends[:, None, None, None] + mx.arange(N)[None, None, :, None]
        slots = mx.arange(self._idx + N)[None, None, None, :]
        mask = (slots <= queries) & (slots >= self.left_padding[:, None, None, None])
        window = kwargs.get("window_size")
        return mask if window is None else mask & (slots > queries - window)

    def filter(self, batch_indices: list[int]) -> None:
        """Keep these rows, in this order."""
        super().filter(batch_indices)
        self._behind = [self._behind[index] for index in batch_indices]
        self._close_up()

    def extend(self, other: RaggedKVCache) -> None:
        """Add the rows of ``other`` behind these."""
        super().extend(other)
        self._behind = self._behind + other._behind

    def extract(self, idx: int) -> KVCache:
        """One row's own cache."""
        start: Any = self.left_padding[idx].item()
        cache = _plain_cache()
        held = slice(start, self.end_of(idx))
        cache.keys = mx.contiguous(self.keys[idx : idx + 1, :, held])
        cache.values = mx.contiguous(self.values[idx : idx + 1, :, held])
        cache.offset = held.stop - held.start
        own: KVCache = cache
        return own

    @classmethod
    def merge(cls, caches: list[KVCache]) -> RaggedKVCache:
        """The rows' own caches as one."""
        merged = cls([0] * len(caches))
        merged.state = _Untyped.merge(caches).state
        return merged

    def _close_up(self) -> None:
        """Give up the slots behind every row; move rows that are too far behind to the end."""
        least = min(self._behind)
        self._idx -= least
        self._behind = [behind - least for behind in self._behind]
        if max(self._behind) > _MOST_BEHIND:
            self._align()

    def _align(self) -> None:
        """Move the rows' tokens to one common end, as mlx-lm does."""
        self.keys, self.values = self.keys_and_values()
        offset = self.offset
        self.prepare(right_padding=self._behind)
        self.finalize()
        self.offset = offset  # finalize takes back what is taken back already
        self._behind = [0] * len(self._behind)
        super().filter(list(range(len(self._behind))))


def merge_ragged(caches: Sequence[Sequence[Any]]) -> list[Any]:
    """The layers' batch caches of several rows; ragged where a layer's cache is the plain one."""
    return [
        (RaggedKVCache if type(layer[0]) is KVCache else type(layer[0])).merge(list(layer))
        for layer in zip(*caches, strict=True)
    ]


def _put(into: mx.array, slots: mx.array, what: mx.array) -> mx.array:
    return mx.put_along_axis(into, mx.broadcast_to(slots, what.shape), what, axis=2)
