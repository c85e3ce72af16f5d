"""A LoRA shape says what it is, and where another shape or its own tensors contradict it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.shape import LoraShape, Target

Q, V = "self_attn.q_proj", "self_attn.v_proj"
SHAPE = LoraShape(rank=8, scale=20.0, num_layers=2, keys=(Q, V), dropout=0.1)

shapes = st.builds(
    LoraShape,
    rank=st.integers(1, 64),
    scale=st.sampled_from([0.5, 2.0, 20.0]),
    num_layers=st.sampled_from([-1, 1, 4]),
    keys=st.none() | st.lists(st.sampled_from([Q, V, "mlp.up_proj"]), min_size=1).map(tuple),
    dropout=st.sampled_from([0.0, 0.1]),
)


def target(path: str, rank: int = 8) -> Target:
    """A square target."""
    return Target(path, rank, 16, 16)


@pytest.mark.parametrize(
    ("path", "block", "key"),
    [
        ("model.layers.3.self_attn.q_proj", 3, Q),
        ("layers.0.mlp.up_proj", 0, "mlp.up_proj"),
        ("language_model.model.layers.12.mlp.up_proj", 12, "mlp.up_proj"),
        ("model.layers.1.moe.layers.2.up_proj", 1, "moe.layers.2.up_proj"),
        ("lm_head", None, "lm_head"),
        ("model.players.3.q_proj", None, "model.players.3.q_proj"),
        ("model.layers.03.q_proj", None, "model.layers.03.q_proj"),
        ("model.layers.3", None, "model.layers.3"),
    ],
)
def test_a_target_knows_its_block_and_its_key(path: str, block: int | None, key: str) -> None:
    """The first ``layers`` counts; outside the blocks the key is the whole path."""
    assert (target(path).block, target(path).key) == (block, key)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (SHAPE, "rank 8, scale 20, last 2 blocks, q_proj and v_proj"),
        (
            dataclasses.replace(SHAPE, num_layers=-1, keys=(Q,), scale=0.5),
            "rank 8, scale 0.5, all blocks, q_proj",
        ),
        (
            dataclasses.replace(SHAPE, keys=(Q, V, "mlp.up_proj")),
            "rank 8, scale 20, last 2 blocks, q_proj, v_proj and up_proj",
        ),
        (
            dataclasses.replace(SHAPE, keys=None),
            "rank 8, scale 20, last 2 blocks, every linear layer",
        ),
    ],
)
def test_a_shape_describes_itself_in_a_line(shape: LoraShape, text: str) -> None:
    """For lists and error messages."""
    assert shape.describe() == text


@pytest.mark.parametrize(
    ("change", "contradiction"),
    [
        ({"rank": 4}, "rank is 8, not 4"),
        ({"scale": 2.0}, "scale is 20.0, not 2.0"),
        ({"num_layers": -1}, "num_layers is 2, not -1"),
        ({"keys": (Q,)}, f"keys is ['{Q}', '{V}'], not ['{Q}']"),
        ({"keys": None}, f"keys is ['{Q}', '{V}'], not every linear layer"),
    ],
)
def test_each_field_of_a_chain_contradicts_another_value(
    change: dict[str, Any], contradiction: str
) -> None:
    """In words that name the field and both values."""
    assert SHAPE.contradictions(dataclasses.replace(SHAPE, **change)) == [contradiction]


def test_every_contradiction_is_reported_at_once() -> None:
    """Nobody should have to mend one to learn of the next."""
    other = LoraShape(rank=4, scale=2.0, num_layers=3, keys=None)
    assert len(SHAPE.contradictions(other)) == 4


def test_the_order_of_keys_and_the_dropout_may_differ() -> None:
    """The one means nothing, the other only matters while training."""
    assert SHAPE.contradictions(dataclasses.replace(SHAPE, keys=(V, Q, Q), dropout=0.0)) == []


@given(shapes, shapes)
def test_contradiction_is_symmetric_and_no_shape_contradicts_itself(
    left: LoraShape, right: LoraShape
) -> None:
    """It is a question of equality, whoever asks."""
    assert left.contradictions(left) == []
    assert len(left.contradictions(right)) == len(right.contradictions(left))


def test_targets_inside_the_shape_fit() -> None:
    """Blocks anywhere, as long as they are near enough to be the last two; gaps are zeros."""
    assert SHAPE.misfits([]) == []
    assert SHAPE.misfits([target(f"model.layers.{block}.{Q}") for block in (6, 7)]) == []
    assert SHAPE.misfits([target(f"model.layers.7.{V}")]) == []


@pytest.mark.parametrize("blocks", [(5, 6, 7), (5, 7), (0, 31)])
def test_blocks_that_cannot_be_the_last_ones_misfit(blocks: tuple[int, ...]) -> None:
    """Two adapted blocks lie side by side."""
    found = SHAPE.misfits([target(f"model.layers.{block}.{Q}") for block in blocks])
    assert found == [f"blocks {blocks[0]} to {blocks[-1]} are adapted, the shape says the last 2"]
    everywhere = dataclasses.replace(SHAPE, num_layers=-1)
    assert everywhere.misfits([target(f"model.layers.{block}.{Q}") for block in blocks]) == []


def test_another_rank_misfits() -> None:
    """The configuration could not be loaded again."""
    found = SHAPE.misfits([target(f"model.layers.0.{Q}", rank=4)])
    assert found == [f"model.layers.0.{Q} has rank 4, the shape says 8"]


def test_a_module_beside_the_keys_misfits() -> None:
    """mlx-lm would refuse it."""
    found = SHAPE.misfits([target("model.layers.0.mlp.up_proj"), target("lm_head")])
    assert found == [
        "model.layers.0.mlp.up_proj is not among the shape's targets",
        "lm_head is not among the shape's targets",
    ]


def test_a_whole_path_may_be_a_key() -> None:
    """mlx-lm reaches modules outside the blocks that way."""
    shape = dataclasses.replace(SHAPE, keys=(Q, "lm_head"))
    assert shape.misfits([target("lm_head"), target(f"model.layers.1.{Q}")]) == []


def test_without_keys_every_module_of_a_block_is_a_target_and_nothing_else() -> None:
    """As in mlx-lm."""
    shape = dataclasses.replace(SHAPE, keys=None)
    assert shape.misfits([target("model.layers.1.anything.at_all")]) == []
    assert shape.misfits([target("lm_head")]) == ["lm_head is not among the shape's targets"]
