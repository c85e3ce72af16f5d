"""The ragged batch cache: each query sees its own row's tokens, in their order, and no others."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

from server.engine import ragged
from server.engine.ragged import RaggedKVCache, merge_ragged

_untyped: Any = KVCache

HISTORY = st.lists(st.integers(1, 5), min_size=1, max_size=4)
STEPS = st.lists(
    st.tuples(st.sampled_from(["step", "leave", "join"]), st.integers(0, 2**32 - 1)), max_size=25
)


class Rows:
    """A cache whose keys are numbers that never repeat, and what each row should hold."""

    def __init__(self, lengths: list[int]) -> None:
        self.next = 1.0
        self.held: list[list[float]] = []
        self.cache: Any = self._merged(lengths)

    def _numbers(self, rows: int, length: int) -> list[list[float]]:
        made = [[self.next + row * length + at for at in range(length)] for row in range(rows)]
        self.next += rows * length
        return made

    def _merged(self, lengths: list[int]) -> Any:
        caches = []
        for length in lengths:
            cache = _untyped()
            (numbers,) = self._numbers(1, length)
            cache.update_and_fetch(*(mx.array(numbers).reshape(1, 1, -1, 1),) * 2)
            caches.append([cache])
            self.held.append(numbers)
        return merge_ragged(caches)[0]

    def join(self, length: int) -> None:
        """One more row."""
        self.cache.extend(self._merged([length]))

    def leave(self, row: int) -> None:
        """One row fewer."""
        del self.held[row]
        self.cache.filter([at for at in range(len(self.held) + 1) if at != row])

    def step(self, length: int, taken_back: list[int]) -> None:
        """Add ``length`` tokens to each row, look, and take some back."""
        numbers = self._numbers(len(self.held), length)
        mask = np.array(self.cache.make_mask(length))
        both = self.cache.update_and_fetch(*(mx.array(numbers)[:, None, :, None],) * 2)
        for row, (old, new) in enumerate(zip(self.held, numbers, strict=True)):
            for array in both:
                keys = np.array(array)[row, 0, :, 0]
                for query in range(length):
                    seen = keys[
                        np.broadcast_to(mask, (len(self.held), *mask.shape[1:]))[row, 0, query]
                    ]
                    assert seen.tolist() == old + new[: query + 1]
        self.cache.roll_back(taken_back)
        self.held = [
            old + new[: length - count]
            for old, new, count in zip(self.held, numbers, taken_back, strict=True)
        ]
        assert np.array(self.cache.offset).tolist() == [len(row) for row in self.held]


@pytest.mark.parametrize("most_behind", [1, 256])
@given(lengths=HISTORY, steps=STEPS)
@settings(max_examples=40)
def test_rows_see_what_they_hold_however_they_advance_join_and_leave(
    most_behind: int, lengths: list[int], steps: list[tuple[str, int]]
) -> None:
    """Also where rows fall so far behind that their tokens are moved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "_MOST_BEHIND", most_behind)
        rows = Rows(lengths)
        for what, seed in steps:
            draw = np.random.default_rng(seed)
            if what == "join" and len(rows.held) < 4:
                rows.join(int(draw.integers(1, 6)))
            elif what == "leave" and len(rows.held) > 1:
                rows.leave(int(draw.integers(len(rows.held))))
            else:
                length = int(draw.integers(1, 5))
                rows.step(length, draw.integers(0, length, len(rows.held)).tolist())
        for row, held in enumerate(rows.held):
            own = rows.cache.extract(row)
            assert np.array(own.state[0])[0, 0, :, 0].tolist() == held


def test_a_window_is_counted_in_the_rows_own_tokens() -> None:
    """A model with sliding windows sees as far back in a row that fell behind."""
    rows = Rows([4, 4])
    rows.step(3, [0, 2])
    mask = np.array(rows.cache.make_mask(1, window_size=2))
    assert mask.sum(axis=-1).ravel().tolist() == [2, 2]


def test_other_caches_keep_their_own_form() -> None:
    """A layer whose cache cannot take tokens back is not made to look as if it could."""

    class Other(_untyped):  # type: ignore[misc]  # mlx-lm's classes have no types
        """A cache of another kind."""

    caches: list[list[Any]] = [[_untyped(), Other()]]
    first, second = merge_ragged(caches)
    assert isinstance(first, RaggedKVCache)
    assert not isinstance(second, RaggedKVCache)
