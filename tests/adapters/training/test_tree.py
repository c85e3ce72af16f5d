"""The training tree shares the served base's arrays, and is the only place with LoRA layers."""

from __future__ import annotations

from typing import Any

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.containers import Sequential
from mlx.nn.layers.linear import Linear
from mlx.utils import tree_flatten

from adapters.base.load import Base
from adapters.errors import AdapterMismatch
from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora import AdapterBank, Router
from adapters.lora.router import RoutedLinear
from adapters.shape import LoraShape
from adapters.training.layers import DropoutSeed, LoraLinear
from adapters.training.shape_growth import initial_adapter
from adapters.training.tree import TrainingTree
from tests.banks import put
from tests.equality import assert_equal
from tests.memory import active_memory
from tests.training_rig import SHAPE, linears_of, make_trainer

TOKENS = [[5, 9, 200, 31, 77, 12]]


def fresh(base: Base, shape: LoraShape = SHAPE) -> AdapterFiles:
    """A new adapter on the base."""
    return initial_adapter(linears_of(base.model), shape, seed=0, stage=1)


def logprobs(model: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(positions, vocabulary) of TOKENS."""
    logits = model(mx.array(TOKENS))[0]
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def moved(files: AdapterFiles) -> AdapterFiles:
    """The same shape with a B that does something."""
    draw = np.random.default_rng(0)
    tensors = {
        path: (
            a,
            HostArray("F32", b.shape, draw.normal(0, 0.05, b.shape).astype("<f4").tobytes()),
        )
        for path, (a, b) in files.tensors.items()
    }
    return AdapterFiles(files.shape, tensors)


def test_every_base_array_is_the_served_one(base: Base) -> None:
    """No copy: the same objects, the dense matrices included, and no memory beside A and B."""
    files = fresh(base)
    before = active_memory()
    tree = TrainingTree(base.model, files)
    assert active_memory() - before <= files.nbytes + 4096 * len(files.tensors)
    model: Any = base.model
    served: Any = tree_flatten(model.parameters())
    mine: Any = tree_flatten(tree.model.parameters())
    shared = {name.replace(".linear.", "."): array for name, array in mine if "lora_" not in name}
    assert shared.keys() == dict(served).keys()
    assert all(shared[name] is array for name, array in served)
    dense = [
        (module["_dense"], tree_module["_dense"])
        for path, module in model.named_modules()
        if "_dense" in module
        for tree_module in [dict(tree.model.named_modules()).get(path)]
        if tree_module is not None and "_dense" in tree_module
    ]
    assert dense
    assert all(one is other for one, other in dense)


def test_only_a_and_b_are_trainable_and_float32(base: Base) -> None:
    """Two arrays for each adapted module, as many numbers as the shape says."""
    files = fresh(base)
    tree = TrainingTree(base.model, files)
    flat: Any = tree_flatten(tree.model.trainable_parameters())
    assert sorted(name for name, _ in flat) == sorted(tree.parameters())
    assert {array.dtype for array in tree.parameters().values()} == {mx.float32}
    assert sum(array.size for array in tree.parameters().values()) == sum(
        each.rank * (each.in_features + each.out_features) for each in files.targets
    )


def test_the_served_model_is_not_touched(base: Base) -> None:
    """Its modules, flags and logits are the same bits before, while and after a tree is trained."""
    model: Any = base.model
    modules = list(model.named_modules())
    before = logprobs(base.model)
    trainer = make_trainer(base)
    for _ in trainer.steps():
        assert np.array_equal(logprobs(base.model), before)
    after = model.named_modules()
    assert all(a is b for (_, a), (_, b) in zip(modules, after, strict=True))
    assert not any(module.training for _, module in modules)
    assert not tree_flatten(model.trainable_parameters())
    trainer.close()
    assert np.array_equal(logprobs(base.model), before)


def test_routed_layers_are_passed_by(base: Base) -> None:
    """A base that serves an adapter gives the tree its bare layers, and keeps its routed ones."""
    served, trained = moved(fresh(base)), fresh(base, LoraShape(2, 1.0, 1))
    router = Router(base.model)
    bank = AdapterBank(router, budget_bytes=1 << 30, dtype=mx.float32)
    put(bank, "r1", served)
    try:
        tree = TrainingTree(base.model, trained)
        kinds = [type(module) for _, module in tree.model.named_modules()]
        assert RoutedLinear not in kinds
        assert router.routed_modules == len(served.tensors)
        tree.model(mx.array(TOKENS))
    finally:
        bank.evict("r1")


def test_what_is_served_is_what_was_trained(base: Base) -> None:
    """Rule 3: the routed layers give the training tree's log-probabilities, in evaluation mode."""
    shape = LoraShape(4, 3.0, 2, dropout=0.3)
    tree = TrainingTree(base.model, moved(fresh(base, shape)))
    tree.dropout.at = (1, 2)
    with tree.evaluating():
        trained = logprobs(tree.model)
    router = Router(base.model)
    bank = AdapterBank(router, budget_bytes=1 << 30, dtype=mx.float32)
    put(bank, "r1", tree.files())
    adapter = bank.acquire("r1")
    try:
        with router.routing(router.plan([adapter])):
            served = logprobs(base.model)
    finally:
        bank.release("r1")
        bank.evict("r1")
    assert_equal(trained, served)
    assert np.abs(served - logprobs(base.model)).max() > 0.1


def test_a_new_adapter_changes_nothing(base: Base) -> None:
    """B is zero: at step 0 the tree answers as the base does."""
    tree = TrainingTree(base.model, fresh(base))
    assert np.array_equal(logprobs(tree.model), logprobs(base.model))


def test_the_files_give_the_tree_back(base: Base) -> None:
    """What goes to the host is what came from it."""
    files = moved(fresh(base))
    back = TrainingTree(base.model, files).files()
    assert back.shape == files.shape
    assert {path: (a.data, b.data, a.shape, b.shape) for path, (a, b) in back.tensors.items()} == {
        path: (a.data, b.data, a.shape, b.shape) for path, (a, b) in files.tensors.items()
    }


def test_arrays_that_are_lent_are_given_back(base: Base) -> None:
    """Also where the forward inside fails."""
    tree = TrainingTree(base.model, fresh(base))
    before = tree.parameters()
    name = next(iter(before))
    with pytest.raises(ZeroDivisionError), tree.using({name: mx.zeros((1, 1))}):
        raise ZeroDivisionError
    assert tree.parameters()[name] is before[name]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("model.layers.9.self_attn.q_proj", "no linear layer"),
        ("model.layers.0.self_attn", "no linear layer"),
        ("nothing", "no linear layer"),
        ("model.layers.0.mlp.up_proj", "but lora_a is"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(base: Base, path: str, word: str) -> None:
    """A tensor without its module, or of other features, names the module."""
    pair = (HostArray("F32", (3, 1), bytes(12)), HostArray("F32", (1, 3), bytes(12)))
    with pytest.raises(AdapterMismatch, match=word) as refused:
        TrainingTree(base.model, AdapterFiles(LoraShape(1, 1.0, -1), {path: pair}))
    assert path in str(refused.value)


def lora(linear: Linear, *, dropout: float = 0.0, index: int = 0) -> LoraLinear:
    """A layer whose B is not zero."""
    layer = LoraLinear(linear, scale=2.0, dropout=dropout, index=index, seed=DropoutSeed())
    layer["lora_a"] = mx.random.normal((8, 2), key=mx.random.key(1))
    layer["lora_b"] = mx.random.normal((2, 6), key=mx.random.key(2))
    return layer


def test_the_layer_adds_scale_times_the_low_rank_product() -> None:
    """Hu et al. 2021, eq. 3."""
    layer = lora(Linear(8, 6))
    x = mx.random.normal((2, 3, 8), key=mx.random.key(3))
    expected = layer.linear(x) + 2.0 * ((x @ layer["lora_a"]) @ layer["lora_b"])
    assert mx.allclose(layer(x), expected, atol=1e-6).item()


def test_a_16_bit_base_stays_16_bit() -> None:
    """The float32 parameters are cast for the product, and their gradients come in float32."""
    linear = Linear(8, 6)
    linear.set_dtype(mx.bfloat16)
    layer = lora(linear)
    x = mx.ones((1, 3, 8), mx.bfloat16)
    assert layer(x).dtype == mx.bfloat16

    def loss(a: mx.array) -> mx.array:
        layer["lora_a"] = a
        return layer(x).sum()

    assert mx.grad(loss)(layer["lora_a"]).dtype == mx.float32


def test_dropout_is_a_function_of_its_place() -> None:
    """The same place and layer drop the same, others differently, and no place drops nothing."""
    x = mx.ones((1, 40, 8))
    one, other = lora(Linear(8, 6), dropout=0.5), lora(Linear(8, 6), dropout=0.5, index=1)

    def dropped(layer: LoraLinear, at: tuple[int, ...] | None) -> Any:
        layer._seed.at = at
        return np.array(layer._dropped(x)).tolist()

    mx.random.seed(1)
    first = dropped(one, (0, 1, 2))
    mx.random.seed(2)
    assert dropped(one, (0, 1, 2)) == first
    assert dropped(one, (0, 1, 3)) != first
    assert dropped(other, (0, 1, 2)) != first
    assert dropped(one, None) == x.tolist()
    flat = np.array(first).reshape(-1)
    assert set(flat) == {0.0, 2.0}
    assert 0.3 < (flat == 0).mean() < 0.7


def test_a_module_in_two_places_stays_one() -> None:
    """As tied layers are; and a layer that lies in a list itself is found by its number."""
    untyped: Any = Sequential
    model = untyped(Linear(4, 4), Linear(4, 4))
    model.again = model.layers[0]
    model.freeze()
    shape = LoraShape(1, 1.0, -1, ("again",))
    files = initial_adapter(linears_of(model), shape, seed=0, stage=1)
    tree = TrainingTree(model, files)
    assert tree.model.again.linear is tree.model.layers[0]
    assert tree.model.layers[0] is not model.layers[0]
    listed = TrainingTree(model, AdapterFiles(shape, {"layers.1": files.tensors["again"]}))
    assert isinstance(listed.model.layers[1], LoraLinear)
    assert type(model.layers[1]) is Linear
