"""A quantized MLX model as the Hugging Face model of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, load_model


def make_twin(model_dir: Path, directory: Path) -> Path:
    """Write what a quantized model computes with as float32 matrices, for torch to load."""
    directory.mkdir()
    model, config = load_model(model_dir)
    model.set_dtype(mx.float32)  # first: 16-bit scales would round the matrices to 16 bits
    arrays = dict(tree_flatten(dequantize_model(model).parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), arrays, metadata={"format": "pt"})
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    (directory / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    return directory
