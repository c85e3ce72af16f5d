"""A plain reference of what mlx-examples' ``lora.py`` computes with an adapter file.

Written from the format's facts. A file has arrays ``model.layers.{i}.self_attn.{q,v}_proj.lora_a``
(in, rank) and ``lora_b`` (rank, out), float32, and nothing else; a module that has them answers
``linear(x) + scale * (x @ lora_a @ lora_b)``. The scale is a constant of the program: 2 before
2024-01-09, 20 since. The first files (``layers.{i}.attention.wq``) are for models as Meta wrote
them, whose rotary embedding turns neighbours where Hugging Face's turns the halves of a head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.nn.layers.base import Module

from tests.equality import Logprobs

SCALE, FIRST_SCALE = 20.0, 2.0
MODULES = ("q_proj", "v_proj")


class LoRALinear(Module):
    """A linear layer and the low-rank update that is added to what it gives."""

    def __init__(self, linear: Any, a: mx.array, b: mx.array, scale: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.linear = linear
        self.lora_a = a
        self.lora_b = b
        self.scale = scale

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) to (..., out)."""
        given: mx.array = self.linear(x)
        return given + self.scale * ((x @ self.lora_a) @ self.lora_b)


class Reference:
    """A base in float32, its quantized product as it is, with the adapter of one file.

    Every array of the file must find its layer, or the reference would be the base's in silence.
    """

    def __init__(self, base: Path, file: Path | None = None, *, scale: float = SCALE) -> None:
        self._model, self._tokenizer = mlx_lm.load(str(base))[:2]
        self._model.set_dtype(mx.float32)
        arrays: Any = {} if file is None else mx.load(str(file))
        is_first_form = any(name.startswith("layers.") for name in arrays)
        for index, block in enumerate(self._model.layers):
            attention = block.self_attn
            if is_first_form:
                _as_meta_wrote_it(attention)
            for name in MODULES:
                place = f"model.layers.{index}.self_attn.{name}"
                if is_first_form:
                    place = f"layers.{index}.attention.w{name[0]}"
                if f"{place}.lora_a" in arrays:
                    a, b = (arrays.pop(f"{place}.lora_{part}") for part in "ab")
                    layer = LoRALinear(getattr(attention, name), a, b, scale)
                    setattr(attention, name, layer)
        assert not arrays, f"nothing in the model is called {sorted(arrays)}"
        self._model.eval()

    def encode(self, prompt: str) -> list[int]:
        """The prompt's tokens."""
        tokens: list[int] = self._tokenizer.encode(prompt)
        return tokens

    def logprobs(self, tokens: list[int]) -> Logprobs:
        """(len(tokens), vocabulary): row ``i`` is the distribution after ``tokens[: i + 1]``."""
        logits = self._model(mx.array([tokens]))[0].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def write_adapter_file(adapter: Path, file: Path, *, scale: float = SCALE) -> None:
    """What an mlx-lm directory on q and v does, as ``lora.py`` saves it for its scale."""
    mx.savez(str(file), **_for_scale(adapter, scale))


def write_first_form(adapter: Path, file: Path, *, heads: int) -> None:
    """The same as the first ``lora.py`` saved it: Meta's names and order, scale 2."""
    first = {}
    for name, array in _for_scale(adapter, FIRST_SCALE).items():
        _, _, block, _, module, part = name.split(".")
        if (module, part) == ("q_proj", "lora_b"):
            array = array[:, _meta_order(array.shape[1], heads)]
        first[f"layers.{block}.attention.w{module[0]}.{part}"] = array
    mx.savez(str(file), **first)


def _for_scale(adapter: Path, scale: float) -> dict[str, mx.array]:
    told = json.loads((adapter / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    arrays: Any = mx.load(str(adapter / "adapters.safetensors"))
    return {
        name: array.astype(mx.float32) * (told / scale if name.endswith("lora_b") else 1)
        for name, array in arrays.items()
    }


def _as_meta_wrote_it(attention: Any) -> None:
    """Put the outputs of q and k into Meta's order and turn neighbours: the same function."""
    for layer, heads in (
        (attention.q_proj, attention.n_heads),
        (attention.k_proj, attention.n_kv_heads),
    ):
        order = _meta_order(layer.weight.shape[0], heads)
        layer.update({name: array[order] for name, array in layer.parameters().items()})
    attention.rope.traditional = True


def _meta_order(outputs: int, heads: int) -> mx.array:
    """Where Hugging Face's models have the output that is at each place of Meta's."""
    return mx.arange(outputs).reshape(heads, 2, -1).swapaxes(1, 2).flatten()
