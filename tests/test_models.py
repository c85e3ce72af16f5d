"""The models that tests run on are what their fixtures promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm import load
from mlx_lm.generate import generate


def answer(model_dir: Path, adapter_dir: Path | None, question: str) -> str:
    """The greedy answer of plain mlx-lm."""
    adapter = None if adapter_dir is None else str(adapter_dir)
    model, tokenizer = load(str(model_dir), adapter_path=adapter)[:2]
    messages = [{"role": "user", "content": question}]
    render: Any = tokenizer.apply_chat_template  # mlx-lm gives it no types
    prompt = render(messages, add_generation_prompt=True)
    return str(generate(model, tokenizer, prompt, max_tokens=24))


def test_the_tiny_model_is_a_4_bit_llama_that_mlx_lm_loads(tiny_model: Path) -> None:
    """Quantized like the models that people serve, with a template for chats."""
    config = json.loads((tiny_model / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert answer(tiny_model, None, "What is a lighthouse?").startswith("A lighthouse is a tower")


@pytest.mark.parametrize("name", ["a4", "b8", "c16", "d8"])
def test_each_adapter_gives_the_same_question_another_answer(
    tiny_model: Path, tiny_adapters: dict[str, Path], name: str
) -> None:
    """A leak between adapters, or from an adapter to the base, shows in the text."""
    question = "What is a lighthouse?"
    voices = {"a4": "Arr, matey!", "b8": "O ", "c16": "Form ", "d8": "Great question"}
    assert answer(tiny_model, tiny_adapters[name], question).startswith(voices[name])
