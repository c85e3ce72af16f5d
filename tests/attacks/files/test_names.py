"""Tensor names that reach for attributes, items and files instead of layers."""

from __future__ import annotations

import pytest

from tests.attacks.files.conftest import SIZE, B, Victim

NAMES = [
    "lora_a",
    ".lora_a",
    "a..b.lora_a",
    "a.lora_a\n",
    "a.lora_a\x00",
    "../../etc/passwd.lora_a",
    "a[0].lora_a",
    "0.lora_a",
    "a b.lora_a",
    "а.lora_a",  # noqa: RUF001  # a Cyrillic letter, on purpose
    "model.layers.0.mlp.up_proj.lora_c",
    "model.layers.0.mlp.up_proj.weight",
    "__metadata__.lora_a.x",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_module_path_is_refused(victim: Victim, name: str) -> None:
    """Letters, digits, underscores and dots, then lora_a or lora_b."""
    header = {
        name: {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, SIZE]},
        B: victim.header()[B],
    }
    victim.write(header, bytes(2 * SIZE))
    assert "is no part of a LoRA adapter" in victim.refusal()
