"""A stage starts from new matrices or from its parent's, grown so that every output stays."""

from __future__ import annotations

import dataclasses
from typing import Any

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base.load import Base
from adapters.errors import AdapterMismatch, ShapeContradiction
from adapters.formats.arrays import HostArray, from_mlx, to_mlx
from adapters.formats.mlx_lm import AdapterFiles
from adapters.growth import select_targets
from adapters.shape import LoraShape, Target
from adapters.training.shape_growth import grow, initial_adapter
from adapters.training.tree import TrainingTree
from tests.equality import assert_equal
from tests.training_rig import linears_of

Q, UP = "self_attn.q_proj", "mlp.up_proj"
LINEARS = tuple(
    Target(f"model.layers.{block}.{key}", 0, 6, outputs)
    for block in range(3)
    for key, outputs in ((Q, 6), (UP, 10))
)
SHAPE = LoraShape(rank=2, scale=4.0, num_layers=1, keys=(Q,))

grown_shapes = st.builds(
    LoraShape,
    rank=st.integers(2, 5),
    scale=st.just(4.0),
    num_layers=st.sampled_from([1, 2, -1]),
    keys=st.sampled_from([(Q,), (UP, Q), None]),
    dropout=st.sampled_from([0.0, 0.5]),
)


def matrix(array: HostArray) -> Any:
    """The values of a float32 array."""
    assert array.dtype == "F32"
    return np.frombuffer(array.data, "<f4").reshape(array.shape)


def trained(files: AdapterFiles) -> AdapterFiles:
    """The same adapter with a B that is not zero."""
    draw = np.random.default_rng(1)
    return AdapterFiles(
        files.shape,
        {
            path: (
                a,
                HostArray("F32", b.shape, draw.normal(0, 0.1, b.shape).astype("<f4").tobytes()),
            )
            for path, (a, b) in files.tensors.items()
        },
    )


def test_a_new_adapter_is_uniform_in_a_and_zero_in_b() -> None:
    """A is within 1 / sqrt(in) and fills that range; the modules are the shape's."""
    linears = (Target("model.layers.0.q", 0, 400, 30),)
    files = initial_adapter(linears, LoraShape(8, 1.0, -1), seed=0, stage=1)
    a, b = (matrix(each) for each in files.tensors["model.layers.0.q"])
    assert (a.shape, b.shape) == ((400, 8), (8, 30))
    assert not b.any()
    assert 0.04 < np.abs(a).max() <= 0.05
    assert abs(a.mean()) < 0.003
    assert a.std() == pytest.approx(0.1 / 12**0.5, rel=0.05)


def test_a_new_adapter_is_a_function_of_seed_stage_and_module() -> None:
    """Which other modules there are changes nothing."""
    one = initial_adapter(LINEARS, SHAPE, seed=7, stage=1)
    again = initial_adapter(LINEARS[::-1], dataclasses.replace(SHAPE, keys=None), seed=7, stage=1)
    path = f"model.layers.2.{Q}"
    assert list(one.tensors) == [path]
    assert again.tensors[path][0].data == one.tensors[path][0].data
    for seed, stage in ((8, 1), (7, 2)):
        other = initial_adapter(LINEARS, SHAPE, seed=seed, stage=stage)
        assert other.tensors[path][0].data != one.tensors[path][0].data


@given(grown_shapes)
def test_growth_keeps_the_function(shape: LoraShape) -> None:
    """Old columns stay, new rows of B are zero, new modules have a B of zero."""
    parent = trained(initial_adapter(LINEARS, SHAPE, seed=0, stage=1))
    grown = grow(parent, LINEARS, shape, seed=0, stage=2)
    assert grown.shape == shape
    assert grown.targets == select_targets(LINEARS, shape)
    for path, (a, b) in grown.tensors.items():
        new_a, new_b = matrix(a), matrix(b)
        kept = SHAPE.rank if path in parent.tensors else 0
        assert not new_b[kept:].any()
        assert np.abs(new_a[:, kept:]).min(initial=1) > 0
        if kept:
            old_a, old_b = (matrix(each) for each in parent.tensors[path])
            assert np.array_equal(new_a[:, :kept], old_a)
            assert np.array_equal(new_b[:kept], old_b)


def test_new_columns_differ_from_the_old_ones() -> None:
    """Growing twice with one seed does not repeat a column."""
    parent = initial_adapter(LINEARS, SHAPE, seed=0, stage=1)
    wide = grow(parent, LINEARS, dataclasses.replace(SHAPE, rank=4), seed=0, stage=1)
    widest = grow(wide, LINEARS, dataclasses.replace(SHAPE, rank=6), seed=0, stage=1)
    a = matrix(widest.tensors[f"model.layers.2.{Q}"][0])
    assert len({column.tobytes() for column in a.T}) == 6


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_parents_are_trained_in_float32(dtype: mx.Dtype) -> None:
    """Every 16-bit value has a float32 of the same value."""
    parent = trained(initial_adapter(LINEARS, SHAPE, seed=0, stage=1))
    short = {
        path: (from_mlx(to_mlx(a).astype(dtype)), from_mlx(to_mlx(b).astype(dtype)))
        for path, (a, b) in parent.tensors.items()
    }
    grown = grow(AdapterFiles(SHAPE, short), LINEARS, SHAPE, seed=0, stage=2)
    for path, pair in short.items():
        for stored, wide in zip(pair, grown.tensors[path], strict=True):
            assert wide.dtype == "F32"
            assert mx.array_equal(to_mlx(stored).astype(mx.float32), to_mlx(wide)).item()


def test_what_is_no_growth_is_refused() -> None:
    """A smaller shape would lose what was learned; another scale would change it."""
    parent = initial_adapter(LINEARS, SHAPE, seed=0, stage=1)
    for smaller in ({"rank": 1}, {"scale": 2.0}, {"keys": (UP,)}):
        with pytest.raises(ShapeContradiction, match="may only grow"):
            grow(parent, LINEARS, dataclasses.replace(SHAPE, **smaller), seed=0, stage=2)


def test_a_parent_of_another_base_is_refused() -> None:
    """Other features, or a module that is not there, name the module."""
    parent = initial_adapter(LINEARS, SHAPE, seed=0, stage=1)
    other = tuple(dataclasses.replace(each, in_features=7) for each in LINEARS)
    with pytest.raises(AdapterMismatch, match=r"layers\.2.*\(6, 6\) in the adapter and \(7, 6\)"):
        grow(parent, other, SHAPE, seed=0, stage=2)
    with pytest.raises(AdapterMismatch, match="no such layer"):
        grow(parent, LINEARS[:4], SHAPE, seed=0, stage=2)


def test_a_grown_adapter_answers_as_its_parent(base: Base) -> None:
    """Rule 6 on a model: wider, on more blocks and more modules, equal log-probabilities."""
    linears = linears_of(base.model)
    parent = trained(
        initial_adapter(
            linears, LoraShape(2, 2.0, 1, ("self_attn.q_proj", "mlp.down_proj")), seed=0, stage=1
        )
    )
    grown = grow(parent, linears, LoraShape(6, 2.0, 3), seed=0, stage=2)
    assert_equal(answers(base, parent), answers(base, grown))


def answers(base: Base, files: AdapterFiles) -> Any:
    """(positions, vocabulary) log-probabilities of some tokens."""
    tree = TrainingTree(base.model, files)
    with tree.evaluating():
        logits = tree.model(mx.array([[5, 9, 200, 31, 77, 12]]))[0]
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
