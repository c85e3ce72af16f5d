"""A micro-batch in short pieces gives the sums of one long piece, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import pytest

from adapters.base.load import Base, load_base
from adapters.shape import LoraShape
from adapters.training.forms import Form, Fused, Sliced, Whole
from adapters.training.loss import Batch, Sums, make_batch, number
from adapters.training.shape_growth import initial_adapter
from adapters.training.tree import TrainingTree
from tests.memory import active_memory
from tests.training_rig import linears_of, make_examples

SHAPES = {
    "last blocks": LoraShape(4, 2.0, 2, dropout=0.2),
    "all blocks": LoraShape(4, 2.0, -1),
    "one key": LoraShape(2, 2.0, 3, ("self_attn.v_proj",)),
    "the head as well": LoraShape(2, 2.0, 1, ("lm_head", "mlp.up_proj"), dropout=0.1),
    "the head alone": LoraShape(2, 2.0, 1, ("lm_head",)),
}


def make_tree(base: Base, shape: LoraShape) -> TrainingTree:
    """A tree whose B is not zero, so that every gradient counts."""
    tree = TrainingTree(base.model, initial_adapter(linears_of(base.model), shape, seed=0, stage=1))
    tree.replace(
        {
            name: array + 0.02 * mx.random.normal(array.shape, key=mx.random.key(index))
            for index, (name, array) in enumerate(tree.parameters().items())
        }
    )
    mx.eval(tree.parameters())
    return tree


def batches(count: int = 2) -> list[Batch]:
    """Micro-batches of one step."""
    rows = make_examples(4 * count, seed=2)
    return [make_batch(rows[4 * i : 4 * i + 4]) for i in range(count)]


def sums_of(form: Form, wanted: Iterable[Batch]) -> Sums:
    """Loss and gradients of all batches."""
    sums = Sums()
    for batch in wanted:
        for piece in form.training(batch, sums):
            piece()
    return sums


def same_bits(one: Sums, other: Sums) -> bool:
    """Whether loss and all gradients are equal to the last bit."""
    assert one.gradients.keys() == other.gradients.keys()
    assert one.loss is not None
    assert other.loss is not None
    return number(one.loss) == number(other.loss) and all(
        mx.array_equal(array, other.gradients[name]).item() for name, array in one.gradients.items()
    )


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head in several chunks, as with a large vocabulary."""
    monkeypatch.setattr("adapters.training.forms.head_rows", lambda _vocabulary: 16)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", SHAPES)
def test_sliced_gives_the_bits_of_fused(base: Base, name: str) -> None:
    """DESIGN 1, bit-equal: the same products in the same order, dropout included."""
    tree = make_tree(base, SHAPES[name])
    tree.dropout.at = (3, 1, 4)
    wanted = batches()
    assert len(wanted[0].targets) > 16
    sliced, fused = sums_of(Sliced(tree), wanted), sums_of(Fused(tree), wanted)
    assert sliced.gradients.keys() == tree.parameters().keys()
    assert same_bits(sliced, fused)


@pytest.mark.parametrize("name", SHAPES)
def test_sliced_gives_what_the_models_own_forward_gives(base: Base, name: str) -> None:
    """All logits made, none gathered: the same loss and gradients but for rounding."""
    tree = make_tree(base, SHAPES[name])
    wanted = batches(1)
    sliced, whole = sums_of(Sliced(tree), wanted), sums_of(Whole(tree), wanted)
    assert sliced.loss is not None
    assert whole.loss is not None
    assert number(sliced.loss) == pytest.approx(number(whole.loss), rel=1e-5)
    for key, array in whole.gradients.items():
        assert mx.allclose(sliced.gradients[key], array, rtol=1e-3, atol=1e-4).item(), key


@pytest.mark.parametrize("kind", [Sliced, Fused, Whole])
def test_measuring_is_in_evaluation_mode(
    base: Base, kind: type[Sliced] | type[Fused] | type[Whole]
) -> None:
    """No dropout, no gradient, and the loss of the training pass without dropout."""
    tree = make_tree(base, SHAPES["last blocks"])
    form = kind(tree)
    wanted = batches(1)[0]
    expected = sums_of(form, [wanted]).take_loss()
    tree.dropout.at = (1, 2)
    dropped = sums_of(form, [wanted]).take_loss()
    sums = Sums()
    for piece in form.measuring(wanted, sums):
        piece()
    assert not sums.gradients
    assert sums.take_loss() == pytest.approx(expected, rel=1e-6)
    assert dropped != pytest.approx(expected, rel=1e-6)
    assert tree.dropout.at == (1, 2)
    assert tree.model.training


def test_a_batch_falls_into_short_pieces(base: Base) -> None:
    """One for each block forward, each chunk, and each block back down to the lowest adapted."""
    tree = make_tree(base, SHAPES["last blocks"])
    wanted = batches(1)[0]

    def count(pieces: Iterator[object]) -> int:
        return sum(1 for _ in pieces)

    assert count(Sliced(tree).training(wanted, Sums())) == 4 + 1 + 2 + 1
    assert count(Sliced(tree).measuring(wanted, Sums())) == 4 + 1 + 1
    assert count(Fused(tree).training(wanted, Sums())) == 1


def test_slices_hold_less_memory_than_one_piece(base: Base) -> None:
    """Only the states between blocks wait for the way back."""
    tree = make_tree(base, SHAPES["all blocks"])
    wanted = [make_batch(make_examples(6, seed=4, longest=60))]
    peaks = []
    for form in (Sliced(tree), Whole(tree)):
        mx.reset_peak_memory()
        before = active_memory()
        sums_of(form, wanted)
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] < 0.8 * peaks[1]


def test_a_base_without_kept_matrices_is_sliced_to_the_same_bits(tiny_model: Path) -> None:
    """Products that dequantize on the way, forward and back, are products like any other."""
    base = load_base(tiny_model, cpu_float32_bytes=0)
    assert base.compute.form == "dequantize"
    tree = make_tree(base, SHAPES["last blocks"])
    wanted = batches(1)
    assert same_bits(sums_of(Sliced(tree), wanted), sums_of(Fused(tree), wanted))
