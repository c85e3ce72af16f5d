"""Whether a model may be taken block by block is found out on the model, not from its name."""

from __future__ import annotations

from typing import Any

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx_lm.models import gemma2, qwen3

from adapters.base.block_list import NotSliceable
from adapters.base.load import Base
from adapters.errors import StageError
from adapters.shape import LoraShape
from adapters.training.loss import Sums
from adapters.training.shape_growth import initial_adapter
from adapters.training.trainer import _probe
from adapters.training.tree import TrainingTree
from adapters.training.trial import Trial, _agree
from adapters.training.walk import Walk
from tests.training_rig import linears_of, make_examples

WIDTH = 16
SHAPE = LoraShape(2, 2.0, 2)
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 640,
    "max_position_embeddings": 64,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}


def module(name: str) -> Any:
    """A Module without a type, so that mlx's untyped constructor can be called."""
    made: Any = Module
    assert name
    return made


class Block(module("block")):  # type: ignore[misc]
    """A residual linear layer that sees no other position."""

    def __init__(self) -> None:
        super().__init__()
        self.up = Linear(WIDTH, WIDTH)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., WIDTH) -> the same."""
        return x + mx.tanh(self.up(x))


class PairBlock(Block):
    """A block that gives more than its state."""

    def __call__(self, x: mx.array) -> Any:
        """The state and nothing."""
        return super().__call__(x), None


class Toy(module("toy")):  # type: ignore[misc]
    """The least that has blocks, with one oddity."""

    def __init__(self, oddity: str = "") -> None:
        super().__init__()
        self.oddity = oddity
        self.embed: Any = Embedding(640, WIDTH)
        block = PairBlock if oddity == "pairs" else Block
        name = "stack" if oddity == "no blocks" else "layers"
        setattr(self, name, [block() for _ in range(3)])

    def __call__(self, tokens: mx.array) -> mx.array:
        """Token ids -> logits."""
        x = start = self.embed(tokens)
        for layer in self.get("layers") or self["stack"]:
            if self.oddity == "between":
                x = 0.5 * x + 0.5 * start
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        if self.oddity == "mixing tail":
            x = x - x.mean(axis=1, keepdims=True)
        if self.oddity == "no gradient":
            x = x * mx.bitwise_invert(mx.argmax(x)).view(mx.float32)
        logits: mx.array = self.embed.as_linear(x)
        return logits


def toy(oddity: str) -> Toy:
    """A toy, frozen and evaluated."""
    mx.random.seed(0)
    model = Toy(oddity)
    model.freeze()
    mx.eval(model.parameters())
    return model


def trial_of(model: Any) -> Trial:
    """A trial that has run."""
    files = initial_adapter(linears_of(model), SHAPE, seed=0, stage=1)
    trial = Trial(TrainingTree(model, files), _probe(make_examples()))
    for piece in trial.pieces():
        piece()
    return trial


def test_the_served_llama_is_sliced(base: Base) -> None:
    """Nothing to warn of, and the parameters are what they were."""
    files = initial_adapter(linears_of(base.model), SHAPE, seed=0, stage=1)
    tree = TrainingTree(base.model, files)
    before = tree.parameters()
    tree.dropout.at = None
    trial = Trial(tree, _probe(make_examples()))
    for piece in trial.pieces():
        piece()
    assert (trial.form.name, trial.warning) == ("sliced", None)
    assert all(array is before[name] for name, array in tree.parameters().items())


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("family", [qwen3, gemma2])
def test_other_families_are_sliced_by_their_own_code(family: Any, dtype: mx.Dtype) -> None:
    """Norms on queries, scaled embeddings, soft caps and tied heads come from the model."""
    arguments = family.ModelArgs.from_dict(
        SIZES | {"model_type": "x", "query_pre_attn_scalar": 8.0}
    )
    mx.random.seed(0)
    model = family.Model(arguments)
    model.set_dtype(dtype)
    model.freeze()
    mx.eval(model.parameters())
    trial = trial_of(model)
    assert (trial.form.name, trial.warning) == ("sliced", None)


def test_what_a_model_does_between_its_blocks_is_kept() -> None:
    """A slice reaches from one block's input to the next one's."""
    trial = trial_of(toy("between"))
    assert (trial.form.name, trial.warning) == ("sliced", None)


@pytest.mark.parametrize(
    ("oddity", "why"),
    [("mixing tail", "come out differently"), ("pairs", "a block takes or gives a tuple")],
)
def test_a_model_that_is_no_chain_of_blocks_is_trained_whole(oddity: str, why: str) -> None:
    """It trains all the same, and the warning says that its pieces are long."""
    trial = trial_of(toy(oddity))
    assert trial.form.name == "whole"
    assert trial.warning is not None
    assert "one long piece" in trial.warning
    assert why in trial.warning


def test_a_model_without_a_list_of_blocks_is_trained_whole() -> None:
    """There is nothing to take one at a time."""
    model = toy("no blocks")
    tree = TrainingTree(
        model,
        initial_adapter(linears_of(model), LoraShape(2, 2.0, -1, ("stack.0.up",)), seed=0, stage=1),
    )
    with pytest.raises(NotSliceable, match="no list of blocks"):
        Walk(tree)
    trial = Trial(tree, _probe(make_examples()))
    for piece in trial.pieces():
        piece()
    assert trial.form.name == "whole"
    assert "no list of blocks" in str(trial.warning)


def test_a_model_without_a_gradient_is_refused() -> None:
    """The device is not at fault: what MLX says is passed on as the stage's error."""
    model = toy("no gradient")
    files = initial_adapter(linears_of(model), SHAPE, seed=0, stage=1)
    trial = Trial(TrainingTree(model, files), _probe(make_examples()))
    pieces = trial.pieces()
    next(pieces)()
    with pytest.raises(StageError, match=r"no gradient.*vjp"):
        next(pieces)()


@pytest.mark.parametrize(
    ("loss", "gradient", "same"),
    [
        (2.0, [3.0, 4.0], True),
        (2.001, [3.0, 4.001], True),
        (2.01, [3.0, 4.0], False),
        (2.0, [3.0, 4.1], False),
        (float("nan"), [3.0, 4.0], False),
        (2.0, [float("nan"), 4.0], False),
        (None, [3.0, 4.0], False),
    ],
)
def test_sums_agree_within_a_thousandth(
    loss: float | None, gradient: list[float], same: bool
) -> None:
    """Measured by the largest gradient; what is missing or no number is a no."""
    expected, found = Sums(), Sums()
    expected.add(mx.array(2.0), {"a": mx.array([3.0, 4.0])})
    found.add(None if loss is None else mx.array(loss), {"a": mx.array(gradient)})
    assert _agree(expected, found, 1e-3) is same
