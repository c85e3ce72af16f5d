"""A quantized cache is mlx-lm's plain one, up to the error of its codes, whatever is done to both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
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
from mlx.nn.layers.base import Module
from mlx_lm.models import gemma3_text
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import KVCache, make_prompt_cache

from adapters.base.load import load_base
from adapters.base.quantized_kv import KVQuantization, _Dequantized, _Packed, dequantize
from adapters.errors import BaseError

HEADS, WIDTH = 2, 32


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
        parts = [list(layer)[0].merge(list(layer)) for layer in layers]
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
            kept = getattr(codes, name), *mx.split(getattr(scales, name), 2, axis=-1)
            end = plain.size()
            self.assert_near(
                dequantize(*kept, self.form)[..., :end, :], getattr(plain, name)[..., :end, :]
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
        self.rows.append(Pair(self.form, KVCache(), [KVCache(), KVCache()]))
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

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(max_examples=25, stateful_step_count=15, deadline=None),
    )


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group_size", [32, 64])
def test_our_numbers_are_those_of_mlx(bits: int, group_size: int) -> None:
    """Codes, scales and biases mean the same."""
    x = mx.random.normal((2, 3, 5, 128), key=mx.random.key(bits))
    parts = mx.quantize(x, group_size=group_size, bits=bits)
    theirs = mx.dequantize(*parts, group_size=group_size, bits=bits)
    mine = dequantize(*parts, KVQuantization(bits, group_size))
    assert mx.allclose(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_gpus_product_of_codes_is_that_of_the_dequantized_numbers(bits: int) -> None:
    """mlx-lm's attention takes the one for triples, under the mask of padded rows."""
    form = KVQuantization(bits, 32)
    queries = mx.random.normal((2, 4, 3, WIDTH), key=mx.random.key(1))
    given = [mx.random.normal((2, HEADS, 3, WIDTH), key=mx.random.key(seed)) for seed in (2, 3)]
    found = []
    for kind in (_Packed, _Dequantized):
        short, long = ([KVCache(), KVCache()] for _ in range(2))
        for caches, tokens in ((short, 2), (long, 5)):
            _Dequantized(form, *caches).update_and_fetch(
                *(mx.random.normal((1, HEADS, tokens, WIDTH), key=mx.random.key(4)),) * 2
            )
        layer = kind(form, *(one.merge([one, two]) for one, two in zip(short, long, strict=True)))
        mask = layer.make_mask(3)
        keys, values = layer.update_and_fetch(*given)
        own: Any = scaled_dot_product_attention
        found.append(own(mx.array(queries), keys, values, cache=layer, scale=0.2, mask=mask))
    assert mx.allclose(*found, rtol=1e-4, atol=1e-5)


def test_caches_that_are_not_plain_are_named(tmp_path: Path) -> None:
    """A sliding window's cache cannot be quantized; nothing is left out in silence."""
    arguments = gemma3_text.ModelArgs(
        model_type="gemma3_text",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=32,
        head_dim=32,
        vocab_size=11,
        sliding_window_pattern=2,
    )
    with pytest.raises(BaseError, match=r"others \(RotatingKVCache\).*without --kv-bits"):
        KVQuantization(8).refuse_unfit(gemma3_text.Model(arguments), tmp_path)


def test_groups_that_do_not_divide_the_width_are_refused_with_one_that_does(
    tiny_model: Path,
) -> None:
    """The tiny model's heads are 32 wide."""
    model = load_base(tiny_model).model
    with pytest.raises(BaseError, match=r"32 wide.*groups of 64.*--kv-group-size 32"):
        KVQuantization(8, 64).refuse_unfit(model, tiny_model)
    KVQuantization(8, 32).refuse_unfit(model, tiny_model)


def test_a_model_that_looks_into_its_cache_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Some architectures read more of a cache than attention needs."""

    class Looks(Module):
        """Reads the keys past ``update_and_fetch``."""

        layers = (None,)

        def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
            keys = mx.zeros((1, 1, tokens.shape[1], WIDTH))
            cache[0].update_and_fetch(keys, keys)
            seen: mx.array = cache[0].keys
            return seen

    untyped: Any = Looks
    with pytest.raises(BaseError, match=r"cannot read a quantized.*AttributeError.*'keys'"):
        KVQuantization(8, 32).refuse_unfit(untyped(), tmp_path)


def test_a_models_logits_move_little_with_8_bits_and_more_with_4(tiny_model: Path) -> None:
    """In one piece as in many: a token's keys are quantized before anything sees them."""
    model: Any = load_base(tiny_model).model
    tokens = mx.random.randint(0, 500, (1, 40), key=mx.random.key(3))

    def logits(form: KVQuantization | None, piece: int) -> np.ndarray[Any, Any]:
        caches = make_prompt_cache(model) if form is None else form.make_caches(model)
        parts = [tokens[:, start : start + piece] for start in range(0, 40, piece)]
        found = [
            model(part, cache=caches if form is None else form.layers(caches, tokens=piece))
            for part in parts
        ]
        return np.array(mx.concatenate(found, axis=1))

    plain = logits(None, 40)
    apart = {bits: np.abs(logits(KVQuantization(bits, 32), 40) - plain).mean() for bits in (8, 4)}
    assert 0 < apart[8] < apart[4] / 4
    one, many = (logits(KVQuantization(8, 32), piece) for piece in (40, 8))
    assert np.abs(one - many).max() < 1e-3
