"""From a llama GGUF file to an mlx-lm model directory, quantized values kept bit for bit.

MLX's GGUF reader already gives packed weights, scales and biases in its own affine form. What is
left is names, the order of the rows of the query and key projections, and the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from adapters.errors import BaseError

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""What a converted model consists of."""

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_GROUP_SIZE = 32
_CONTROL = 3  # GGUF's token type of special tokens; its only other one here is 1, normal


def convert_llama(gguf: Path, directory: Path) -> None:
    """Write ``gguf`` as ``MODEL_FILES`` into the existing ``directory``.

    Reads llama models with a byte-level BPE vocabulary whose digits stand alone ("smollm"); raises
    BaseError for any other. Runs MLX on the calling thread. Only for files whose content is known:
    MLX's GGUF reader does not defend itself.
    """
    loaded: Any = mx.load(str(gguf), return_metadata=True)
    tensors, facts = loaded[0], _plain(loaded[1])
    for key, expected in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if facts.get(key) != expected:
            raise BaseError(
                f"{gguf.name}: {key} is {facts.get(key)!r} and only {expected!r} can be read: "
                "convert the model with mlx_lm.convert instead."
            )
    heads = {"attn_q": facts["llama.attention.head_count"]}
    heads["attn_k"] = facts["llama.attention.head_count_kv"]
    weights = {}
    for name, array in tensors.items():
        renamed, stem = _rename(name)
        if stem in heads:
            array = _unpermute(array, heads[stem])
        # A 16-bit model with one float32 norm would compute in float32 from there on.
        weights[renamed] = array.astype(mx.float16) if array.dtype == mx.float32 else array
    mx.eval(weights)
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    vocabulary: list[str] = facts["tokenizer.ggml.tokens"]
    _write(directory / "config.json", _config(facts, weights))
    _write(directory / "generation_config.json", _generation_config(facts, vocabulary))
    _write(directory / "tokenizer.json", _tokenizer(facts))
    _write(directory / "tokenizer_config.json", _tokenizer_config(facts, vocabulary))


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with MLX arrays turned into Python numbers and lists."""
    return {
        key: value.tolist() if isinstance(value, mx.array) else value
        for key, value in metadata.items()
    }


def _rename(name: str) -> tuple[str, str]:
    """mlx-lm's name of a GGUF tensor, and the GGUF name of its layer within the block."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _BLOCK_NAMES:
        return f"model.layers.{parts[1]}.{_BLOCK_NAMES[parts[2]]}.{parts[3]}", parts[2]
    if len(parts) == 2 and parts[0] in _TOP_NAMES:
        return f"{_TOP_NAMES[parts[0]]}.{parts[1]}", parts[0]
    raise BaseError(f"the GGUF tensor {name!r} has no place in an mlx-lm llama model")


def _unpermute(array: mx.array, heads: int) -> mx.array:
    """Put rows back into the order of the published model, so that its adapters fit.

    llama.cpp interleaves the two halves of each head for its rotary embedding; quantization runs
    along rows, so whole rows move and no value changes.
    """
    half = array.shape[0] // heads // 2
    return array.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(array.shape)


def _config(facts: Mapping[str, Any], weights: Mapping[str, mx.array]) -> dict[str, Any]:
    hidden = facts["llama.embedding_length"]
    heads = facts["llama.attention.head_count"]
    quantization: dict[str, Any] = {"group_size": _GROUP_SIZE, "bits": 4}
    for name, scales in weights.items():
        if name.endswith(".scales"):
            path = name.removesuffix(".scales")
            bits = weights[f"{path}.weight"].shape[1] * 32 // (scales.shape[1] * _GROUP_SIZE)
            if bits != 4:
                quantization[path] = {"group_size": _GROUP_SIZE, "bits": bits}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_size": hidden,
        "num_hidden_layers": facts["llama.block_count"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        # The metadata is float32; seven digits give back the number that was meant.
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_theta": float(f"{facts['llama.rope.freq_base']:.7g}"),
        "max_position_embeddings": facts["llama.context_length"],
        "vocab_size": facts["llama.vocab_size"],
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "quantization": quantization,
    }


def _generation_config(facts: Mapping[str, Any], vocabulary: list[str]) -> dict[str, Any]:
    """End tokens of a turn and of a text: the model ends plain text with the latter."""
    ends = [facts["tokenizer.ggml.eos_token_id"]]
    if "<|endoftext|>" in vocabulary:
        ends.append(vocabulary.index("<|endoftext|>"))
    return {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": sorted(set(ends)),
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def _tokenizer(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json, written out rather than saved by the library, so that it never varies."""
    vocabulary = facts["tokenizer.ggml.tokens"]
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id_, "content": token, **added, "special": True}
            for id_, (token, kind) in enumerate(
                zip(vocabulary, facts["tokenizer.ggml.token_type"], strict=True)
            )
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id_ for id_, token in enumerate(vocabulary)},
            "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(facts: Mapping[str, Any], vocabulary: list[str]) -> dict[str, Any]:
    def token(kind: str) -> str:
        id_: int = facts[f"tokenizer.ggml.{kind}_token_id"]
        return vocabulary[id_]

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": facts["llama.context_length"],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "chat_template": facts["tokenizer.chat_template"],
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
