"""A chain's shape is inherited; it may grow, and what it may not do is said in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import AdapterMismatch, ShapeContradiction
from adapters.growth import DEFAULT_SHAPE, resolve_shape, select_targets, shrinkage
from adapters.lineage import LoraRequest
from adapters.shape import LoraShape, Target

Q, V, UP = "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"
PARENT = LoraShape(rank=8, scale=20.0, num_layers=2, keys=(Q, V), dropout=0.1)
LINEARS = (
    *(Target(f"model.layers.{i}.{key}", 0, 16, 16) for i in (0, 1, 2, 10) for key in (Q, V, UP)),
    Target("lm_head", 0, 16, 64),
)

shapes = st.builds(
    LoraShape,
    rank=st.integers(1, 64),
    scale=st.sampled_from([0.5, 2.0, 20.0]),
    num_layers=st.sampled_from([-1, 1, 4]),
    keys=st.none() | st.lists(st.sampled_from([Q, V, UP]), min_size=1, unique=True).map(tuple),
    dropout=st.sampled_from([0.0, 0.1]),
)


@given(shapes)
def test_without_a_request_a_stage_has_its_parents_shape(parent: LoraShape) -> None:
    """A chain's shape is inherited as a whole."""
    assert resolve_shape(parent, None) == parent
    assert resolve_shape(parent, LoraRequest()) == parent


def test_a_first_stage_takes_what_is_asked_and_the_default_for_the_rest() -> None:
    """Without a parent nothing can be contradicted."""
    shape = resolve_shape(None, LoraRequest(rank=2, keys=(Q, V, Q)))
    assert shape == dataclasses.replace(DEFAULT_SHAPE, rank=2, keys=(Q, V))


@pytest.mark.parametrize(
    ("request_", "grown"),
    [
        (LoraRequest(rank=16), {"rank": 16}),
        (LoraRequest(num_layers=3), {"num_layers": 3}),
        (LoraRequest(num_layers=-1), {"num_layers": -1}),
        (LoraRequest(keys=(UP, V, Q)), {"keys": (UP, V, Q)}),
        (LoraRequest(dropout=0.0), {"dropout": 0.0}),
        (LoraRequest(scale=20.0, rank=8), {}),
    ],
)
def test_a_shape_may_grow(request_: LoraRequest, grown: dict[str, Any]) -> None:
    """Rank, blocks and keys become more; dropout is free; what is repeated is no change."""
    assert resolve_shape(PARENT, request_) == dataclasses.replace(PARENT, **grown)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (LoraRequest(rank=4), ["rank is 8 and may only grow, not 4"]),
        (LoraRequest(scale=2.0), ["scale is 20 and never changes, not 2"]),
        (LoraRequest(num_layers=1), ["the last 2 blocks are adapted", "not 1"]),
        (LoraRequest(keys=(Q,)), [f"keys leaves out '{V}'"]),
        (
            LoraRequest(rank=1, scale=1.0, num_layers=1, keys=(UP,)),
            ["rank is", "scale is", "num_layers: ", "keys leaves out"],
        ),
    ],
)
def test_a_contradiction_is_refused_with_every_reason(
    request_: LoraRequest, words: list[str]
) -> None:
    """One answer names all that is wrong, and the field of the request that it stands in."""
    with pytest.raises(ShapeContradiction) as refused:
        resolve_shape(PARENT, request_)
    assert all(word in str(refused.value) for word in words), str(refused.value)
    assert refused.value.param == "lora"


def test_a_list_of_keys_contradicts_every_linear_layer() -> None:
    """None stands for all of them, so any list may leave one out; fewer than all blocks too."""
    parent = dataclasses.replace(PARENT, keys=None, num_layers=-1)
    assert len(shrinkage(parent, dataclasses.replace(parent, keys=(Q, V), num_layers=40))) == 2
    assert shrinkage(PARENT, dataclasses.replace(PARENT, keys=None)) == []


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (LoraRequest(rank=0), "rank 0"),
        (LoraRequest(rank=5000), "rank 5000"),
        (LoraRequest(scale=0.0), "scale 0"),
        (LoraRequest(scale=float("nan")), "scale nan"),
        (LoraRequest(num_layers=0), "num_layers 0"),
        (LoraRequest(num_layers=-2), "num_layers -2"),
        (LoraRequest(dropout=1.0), "dropout 1"),
        (LoraRequest(keys=()), "keys is empty"),
    ],
)
def test_an_impossible_shape_is_refused(request_: LoraRequest, word: str) -> None:
    """Also on a chain's first stage."""
    with pytest.raises(ShapeContradiction, match=word):
        resolve_shape(None, request_)


@given(shapes, shapes)
def test_growth_is_an_order(one: LoraShape, other: LoraShape) -> None:
    """Two shapes that each grow into the other adapt the same modules."""
    if not shrinkage(one, other) and not shrinkage(other, one):
        assert not one.contradictions(other)


@given(shapes)
def test_the_chosen_modules_fit_their_shape(shape: LoraShape) -> None:
    """What is chosen is what the shape covers, with its rank."""
    chosen = select_targets(LINEARS, shape)
    assert chosen
    assert not shape.misfits(chosen)


def test_blocks_are_counted_from_the_last() -> None:
    """By number, not by name: block 10 follows block 2; more than there are mean all."""
    last = select_targets(LINEARS, LoraShape(2, 1.0, 1, (Q,)))
    assert [each.path for each in last] == [f"model.layers.10.{Q}"]
    all_blocks = select_targets(LINEARS, LoraShape(2, 1.0, 99, (Q,)))
    assert [each.block for each in all_blocks] == [0, 1, 10, 2]


def test_a_module_outside_the_blocks_is_chosen_by_its_path() -> None:
    """The head can be adapted by name, and is never part of every linear layer."""
    assert [each.path for each in select_targets(LINEARS, LoraShape(2, 1.0, 1, ("lm_head",)))] == [
        "lm_head"
    ]
    assert all(each.block is not None for each in select_targets(LINEARS, DEFAULT_SHAPE))


def test_a_key_that_matches_nothing_is_refused_with_those_there_are() -> None:
    """A misspelled key would train nothing."""
    with pytest.raises(AdapterMismatch, match=r"'q_porj'; a block has mlp.up_proj, self_attn"):
        select_targets(LINEARS, LoraShape(2, 1.0, 1, (Q, "q_porj")))
    with pytest.raises(AdapterMismatch, match="adapts no linear layer"):
        select_targets((Target("lm_head", 0, 4, 4),), DEFAULT_SHAPE)
    names = tuple(f"key{i}" for i in range(7))
    with pytest.raises(AdapterMismatch, match="and 2 more"):
        select_targets(LINEARS, LoraShape(2, 1.0, 1, names))
