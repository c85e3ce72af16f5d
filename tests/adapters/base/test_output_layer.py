"""What a model gives to its output layer: equal to its inner model's own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models import cohere, gemma2, gpt2, llama, qwen3
from mlx_lm.models.cache import make_prompt_cache

from adapters.base.load import load_base
from adapters.base.output_layer import HeadNotFound, OutputLayer

TOKENS = mx.array([[5, 9, 2, 11, 7]])
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 64,
}
MODELS: dict[str, Any] = {
    "llama, tied": (llama, {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, a head": (llama, {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "qwen3": (
        qwen3,
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 99,
            "rope_theta": 1e4,
            "tie_word_embeddings": False,
        },
    ),
    "gemma2, capped": (gemma2, {"num_key_value_heads": 2, "head_dim": 8}),
    "cohere, scaled": (cohere, {"num_key_value_heads": 2, "logit_scale": 0.5}),
    "gpt2": (
        gpt2,
        {
            "n_ctx": 64,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 64,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": 64,
        },
    ),
}


def made(kind: str) -> Any:
    """A small random model of mlx-lm's."""
    module, more = MODELS[kind]
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict({"model_type": kind, **SMALL, **more}))
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_states_are_those_of_the_inner_model(kind: str) -> None:
    """Whatever the model then does with them: tied, scaled or capped."""
    model = made(kind)
    states = OutputLayer(model).input(TOKENS)
    np.testing.assert_allclose(np.array(states), np.array(model.model(TOKENS)), atol=1e-6)


def test_states_in_pieces_extend_the_caches_and_leave_the_model_as_it_was(tiny_model: Path) -> None:
    """The quantized model that is served, in float32."""
    model: Any = load_base(tiny_model).model
    before = model(TOKENS)
    layer = OutputLayer(model)
    caches = make_prompt_cache(model)
    pieces = [layer.input(TOKENS[:, :2], caches), layer.input(TOKENS[:, 2:], caches)]
    assert caches[0].offset == 5
    whole = model.model(TOKENS)
    np.testing.assert_allclose(np.array(mx.concatenate(pieces, axis=1)), np.array(whole), atol=1e-4)
    assert mx.array_equal(model(TOKENS), before).item()


class _Odd(Module):
    """Logits of two layers' sum: no one array makes them."""

    def __init__(self) -> None:
        begin: Any = super().__init__
        begin()
        self.one: Any = made("llama, tied")
        self.other: Any = made("llama, a head")

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        del cache
        logits: mx.array = self.one(tokens) - 3 * self.other(tokens)
        return logits


def test_a_model_without_such_a_layer_is_told() -> None:
    """Never the states of something else."""
    with pytest.raises(HeadNotFound):
        OutputLayer(_Odd()).input(TOKENS)
