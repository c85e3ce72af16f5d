"""Conversion of llama GGUF files: names, row order, refusals."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from adapters.base import gguf
from adapters.errors import BaseError


def test_rows_of_a_head_return_to_their_published_order() -> None:
    """llama.cpp interleaves the halves of each head; undoing that moves whole rows only."""
    heads, half = 3, 2
    published = np.arange(heads * 2 * half * 5).reshape(heads * 2 * half, 5)
    interleaved = published.reshape(heads, 2, half, 5).swapaxes(1, 2).reshape(published.shape)
    assert not np.array_equal(interleaved, published)
    restored = np.array(gguf._unpermute(mx.array(interleaved), heads))
    np.testing.assert_array_equal(restored, published)


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("blk.12.attn_q.scales", "model.layers.12.self_attn.q_proj.scales"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.biases", "lm_head.biases"),
    ],
)
def test_tensors_get_mlx_lm_s_names(name: str, renamed: str) -> None:
    """Every tensor of a llama model has exactly one place in mlx-lm's."""
    assert gguf._rename(name)[0] == renamed


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_sinks.weight", "blk.0.attn_q"])
def test_a_tensor_without_a_place_is_refused(name: str) -> None:
    """Leaving a tensor out would serve another model than the file's."""
    with pytest.raises(BaseError, match="no place"):
        gguf._rename(name)


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({"general.architecture": "gpt2"}, "general.architecture"),
        (
            {"general.architecture": "llama", "tokenizer.ggml.model": "llama"},
            "tokenizer.ggml.model",
        ),
        (
            {
                "general.architecture": "llama",
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "qwen2",
            },
            "tokenizer.ggml.pre",
        ),
    ],
)
def test_another_kind_of_model_is_refused_by_what_differs(
    metadata: dict[str, str], key: str, tmp_path: Path
) -> None:
    """Only the kind of file that the conversion was made for is converted."""
    file = tmp_path / "other.gguf"
    mx.save_gguf(str(file), {"token_embd.weight": mx.zeros((4, 32))}, dict(metadata))
    with pytest.raises(BaseError, match=key):
        gguf.convert_llama(file, tmp_path)
    assert list(tmp_path.iterdir()) == [file]
