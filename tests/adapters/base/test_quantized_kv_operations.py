"""A quantized cache is mlx-lm's plain one up to the error of its codes, whatever is done to it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mlx_lm.models.cache import KVCache

from adapters.base.quantized_kv import KVQuantization, dequantize

HEADS, WIDTH = 2, 32

_cache: Any = KVCache


class Pair:
    """A plain cache and a quantized one, of one row or of a batch, to which the same is done."""

    def __init__(self, form: KVQuantization, plain: Any, parts: list[Any]) -> None:
        self.form = form
        self.plain = plain
        self.parts = parts

    @classmethod
    def merged(cls, pairs: list[Pair]) -> Pair:
        """Rows' own caches as a batch."""
        layers = zip(*(pair.parts for pair in pairs), strict=True)
        parts = [layer[0].merge(list(layer)) for layer in layers]
        return cls(pairs[0].form, pairs[0].plain.merge([pair.plain for pair in pairs]), parts)

    def do(self, operation: str, *arguments: Any, **options: Any) -> list[Any]:
        """The results of an operation on each cache."""
        caches = [self.plain, *self.parts]
        return [getattr(cache, operation)(*arguments, **options) for cache in caches]

    def extend(self, other: Pair) -> None:
        """Rows behind these."""
        for mine, theirs in zip(
            [self.plain, *self.parts], [other.plain, *other.parts], strict=True
        ):
            mine.extend(theirs)

    def extract(self, row: int) -> Pair:
        """One row's own caches."""
        plain, *parts = self.do("extract", row)
        return Pair(self.form, plain, parts)

    def feed(self, rows: int, tokens: int, seed: int) -> None:
        """The same keys and values, and the same given out."""
        keys, values = (
            mx.random.uniform(-1, 1, (rows, HEADS, tokens, WIDTH), key=mx.random.key(2 * seed + i))
            for i in range(2)
        )
        (layer,) = self.form.layers(self.parts, tokens=tokens)
        assert mx.array_equal(layer.offset, self.plain.offset)
        own = layer.update_and_fetch(keys, values)
        for mine, theirs in zip(own, self.plain.update_and_fetch(keys, values), strict=True):
            self.assert_near(mine, theirs)

    def assert_near(self, mine: mx.array, theirs: mx.array) -> None:
        """Numbers between -1 and 1 that differ by less than a step of the codes."""
        assert mine.shape == theirs.shape
        if theirs.size:
            assert mx.max(mx.abs(mine - theirs)).item() <= 2 / (2**self.form.bits - 1)

    def assert_alike(self) -> None:
        """The same places, masks, size and numbers."""
        plain = self.plain
        for part in self.parts:
            assert part.size() == plain.size()
            assert mx.array_equal(part.offset, plain.offset)
            if not isinstance(plain, KVCache):
                assert mx.array_equal(part.left_padding, plain.left_padding)
                assert mx.array_equal(part.make_mask(3), plain.make_mask(3))
            assert part.is_trimmable()
        codes, scales = self.parts
        assert codes.empty() == plain.empty()
        if plain.empty():
            return
        share = self.form.bytes_per_value(4) / 4
        assert codes.nbytes + scales.nbytes == plain.nbytes * share
        for name in ("keys", "values"):
            scale, bias = mx.split(getattr(scales, name), 2, axis=-1)
            end = plain.size()
            self.assert_near(
                dequantize(getattr(codes, name), scale, bias, self.form)[..., :end, :],
                getattr(plain, name)[..., :end, :],
            )


class CacheMachine(RuleBasedStateMachine):
    """Rows come, are computed in padded pieces, join, are cut, leave and come back."""

    form = KVQuantization(8, 32)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Pair] = []
        self.batch: Pair | None = None
        self.lengths: list[int] = []
        self.seed = 0

    def fed(self, pair: Pair, rows: int, tokens: int) -> None:
        """New numbers each time."""
        self.seed += 1
        pair.feed(rows, tokens, self.seed)

    @rule(tokens=st.integers(0, 300))
    def begin(self, tokens: int) -> None:
        """A row computes its first tokens, or none."""
        self.rows.append(Pair(self.form, _cache(), [_cache(), _cache()]))
        if tokens:
            self.fed(self.rows[-1], 1, tokens)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def trim_row(self, data: st.DataObject) -> None:
        """A row's own cache is cut."""
        pair = data.draw(st.sampled_from(self.rows))
        pair.do("trim", data.draw(st.integers(0, pair.plain.size())))

    @precondition(lambda self: self.rows)
    @rule()
    def join(self) -> None:
        """All rows that wait merge, and extend the batch where there is one."""
        lengths = [pair.plain.size() for pair in self.rows]
        joining = Pair.merged(self.rows)
        if self.batch is None:
            self.batch = joining
        else:
            self.batch.extend(joining)
        self.lengths += lengths
        self.rows = []

    @precondition(lambda self: self.batch)
    @rule(tokens=st.integers(1, 5))
    def step(self, tokens: int) -> None:
        """Every row gets as many tokens."""
        assert self.batch is not None
        self.fed(self.batch, len(self.lengths), tokens)
        self.lengths = [length + tokens for length in self.lengths]

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def piece(self, data: st.DataObject) -> None:
        """Rows get a piece of prompt each, padded on the right."""
        assert self.batch is not None
        count = len(self.lengths)
        counts = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
        longest = max(*counts, 1)
        padding = [longest - each for each in counts]
        self.batch.do("prepare", lengths=counts, right_padding=padding)
        self.fed(self.batch, count, longest)
        self.batch.do("finalize")
        self.lengths = [length + each for length, each in zip(self.lengths, counts, strict=True)]

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """Each row gives up some of its last tokens."""
        assert self.batch is not None
        if self.batch.plain.empty():
            return
        counts = [data.draw(st.integers(0, min(length, 4))) for length in self.lengths]
        self.batch.do("prepare", right_padding=counts)
        self.batch.do("finalize")
        self.lengths = [length - each for length, each in zip(self.lengths, counts, strict=True)]

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        """All rows give up as many tokens."""
        assert self.batch is not None
        tokens = data.draw(st.integers(0, min(self.lengths)))
        self.batch.do("trim", tokens)
        self.lengths = [length - tokens for length in self.lengths]

    @precondition(lambda self: self.batch)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Some rows stay."""
        assert self.batch is not None
        places = st.sampled_from(range(len(self.lengths)))
        keep = sorted(data.draw(st.sets(places, min_size=1)))
        self.batch.do("filter", keep)
        self.lengths = [self.lengths[index] for index in keep]

    @precondition(lambda self: self.batch and not self.batch.plain.empty())
    @rule(data=st.data())
    def extract(self, data: st.DataObject) -> None:
        """A copy of a row waits to join again."""
        assert self.batch is not None
        row = data.draw(st.sampled_from(range(len(self.lengths))))
        self.rows.append(self.batch.extract(row))
        assert self.rows[-1].plain.size() == self.lengths[row]

    @invariant()
    def alike(self) -> None:
        """Every cache is what the plain one is."""
        for pair in [*self.rows, *([self.batch] if self.batch else [])]:
            pair.assert_alike()


@pytest.mark.parametrize("bits", [8, 4])
def test_any_sequence_of_operations_gives_what_a_plain_cache_gives(bits: int) -> None:
    """Offsets, masks and padding to the last bit, numbers within a step of the codes."""

    class Machine(CacheMachine):
        form = KVQuantization(bits, 32)

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=25, stateful_step_count=15, deadline=None),
    )
