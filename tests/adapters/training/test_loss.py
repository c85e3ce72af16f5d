"""A batch holds what is computed, padded where nobody sees it; a token's loss is its own."""

from __future__ import annotations

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.losses import cross_entropy

from adapters.base.load import Base
from adapters.training.batches import Example
from adapters.training.loss import PAD, Sums, make_batch, number, summed_loss, whole_loss
from adapters.training.shape_growth import initial_adapter
from adapters.training.tree import TrainingTree
from tests.training_rig import SHAPE, linears_of, make_examples


@pytest.fixture(scope="module")
def tree(base: Base) -> TrainingTree:
    """A tree with a new adapter."""
    return TrainingTree(base.model, initial_adapter(linears_of(base.model), SHAPE, seed=0, stage=1))


def test_a_target_is_predicted_from_the_token_before_it() -> None:
    """The flat place of a target is that of its predecessor; no pad token is a target."""
    batch = make_batch(
        [
            Example((5, 6, 7, 8), (False, False, True, True), 1),
            Example((9, 10), (False, True), 2),
        ]
    )
    assert batch.tokens.tolist() == [[5, 6, 7], [9, PAD, PAD]]
    assert batch.places.tolist() == [1, 2, 3]
    assert batch.targets.tolist() == [7, 8, 10]
    assert batch.tokens.reshape(-1)[batch.places].tolist() == [6, 7, 9]


def test_tokens_behind_the_last_target_are_not_computed() -> None:
    """A causal model cannot use them; a row without a target keeps its place and adds nothing."""
    batch = make_batch(
        [
            Example((5, 6, 7, 8, 9), (False, True, False, False, False), 1),
            Example((5, 6, 7), (False, False, False), 2),
        ]
    )
    assert batch.tokens.tolist() == [[5], [PAD]]
    assert batch.targets.tolist() == [6]
    assert make_batch([Example((5,), (False,), 1)]).tokens.shape == (1, 1)


def test_the_sum_is_that_of_the_cross_entropies() -> None:
    """MLX's own loss, summed in float32 also where the logits are 16-bit."""
    logits = mx.random.normal((5, 11), key=mx.random.key(0)).astype(mx.float16)
    targets = mx.array([0, 10, 3, 3, 7])
    found = summed_loss(logits, targets)
    expected = cross_entropy(logits.astype(mx.float32), targets, reduction="sum")
    assert found.dtype == mx.float32
    assert number(found) == pytest.approx(number(expected), rel=1e-6)


def test_padding_changes_no_rows_loss(tree: TrainingTree) -> None:
    """Rows together have the sum of their losses alone, whatever fills the shorter ones."""
    rows = make_examples(4, seed=1)
    together = number(whole_loss(tree, make_batch(rows)))
    alone = sum(number(whole_loss(tree, make_batch([row]))) for row in rows)
    assert together == pytest.approx(alone, rel=1e-5)
    batch = make_batch(rows)
    seen = np.zeros(batch.tokens.size, bool)
    for index, row in enumerate(rows):
        width = batch.tokens.shape[1]
        seen[index * width : index * width + len(row.tokens) - 1] = True
    batch.tokens.reshape(-1)[~seen] = 77
    assert number(whole_loss(tree, batch)) == pytest.approx(together, rel=1e-6)


def test_sums_add_and_are_taken_once() -> None:
    """Parts add up by name; taking the loss frees everything."""
    sums = Sums()
    assert sums.take_loss() == 0.0
    sums.add(mx.array(2.0), {"a": mx.array([1.0])})
    sums.add(None, {"a": mx.array([2.0]), "b": mx.array([5.0])})
    sums.add(mx.array(3.0), {})
    assert {name: array.tolist() for name, array in sums.gradients.items()} == {
        "a": [3.0],
        "b": [5.0],
    }
    assert sums.take_loss() == 5.0
    assert (sums.loss, sums.gradients) == (None, {})


def test_only_a_real_number_is_a_loss() -> None:
    """A complex scalar would be cut silently."""
    with pytest.raises(TypeError, match="real"):
        number(mx.array(1 + 2j))
