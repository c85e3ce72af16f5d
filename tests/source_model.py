"""A model as it lies on a hub before anybody converts it, for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, load_model

SLIDING_WINDOW = 96


def make_source(tiny_model: Path, directory: Path) -> Path:
    """The tiny base as a Mistral-shaped Hugging Face directory.

    bfloat16 weights without quantization, in two files, two query heads to each key, a sliding
    window.
    """
    directory.mkdir()
    model, config = load_model(tiny_model)
    model.set_dtype(mx.float32)
    model = dequantize_model(model)
    model.set_dtype(mx.bfloat16)
    arrays = sorted(dict(tree_flatten(model.parameters())).items())
    half = len(arrays) // 2
    for number, part in enumerate((arrays[:half], arrays[half:]), start=1):
        file = directory / f"model-0000{number}-of-00002.safetensors"
        mx.save_safetensors(str(file), dict(part), metadata={"format": "pt"})
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    config |= {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": SLIDING_WINDOW,
    }
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, directory)
    return directory
