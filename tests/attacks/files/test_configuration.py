"""Configurations that turn a sound adapter into something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.attacks.files.conftest import Victim

VALUES = [
    ("rank", "0"),
    ("rank", "-8"),
    ("rank", "true"),
    ("rank", '"2"'),
    ("rank", "2.5"),
    ("rank", "1e9"),
    ("rank", "9" * 400),
    ("scale", "NaN"),
    ("scale", "Infinity"),
    ("scale", "-Infinity"),
    ("scale", "1e400"),
    ("scale", "1e5"),
    ("scale", "null"),
    ("scale", '"2.0"'),
    ("scale", "0"),
    ("scale", "-0.0"),
    ("dropout", "NaN"),
    ("dropout", "1"),
    ("dropout", "-0.1"),
    ("keys", "[]"),
    ("keys", '"mlp.up_proj"'),
    ("keys", "[1]"),
    ("keys", json.dumps(["a"] * 1001)),
]


@pytest.mark.parametrize(("field", "value"), VALUES, ids=lambda value: value[:16])
def test_a_parameter_out_of_its_range_is_refused_and_named(
    victim: Victim, field: str, value: str
) -> None:
    """Python's json reads NaN, Infinity and 1e400; they would be NaN in every output."""
    text = json.dumps(victim.settings)
    old = json.dumps(victim.settings["lora_parameters"][field])
    victim.config.write_text(text.replace(f'"{field}": {old}', f'"{field}": {value}'))
    assert f"lora_parameters.{field}" in victim.refusal()


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", '"lora"', "[" * 100_000, "\ufeff{}", "{'rank': 2}"]
)
def test_a_configuration_that_is_no_object_is_refused(victim: Victim, text: str) -> None:
    """Whatever it is, and however deep."""
    victim.config.write_text(text)
    assert "Give the adapter_config.json that mlx_lm.lora wrote" in victim.refusal()


def test_bytes_that_are_no_text_are_refused(victim: Victim) -> None:
    """Not UTF-8."""
    victim.config.write_bytes(b'{"fine_tune_type": "\xff\xfe"}')
    assert "Give the adapter_config.json that mlx_lm.lora wrote" in victim.refusal()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fine_tune_type": "dora"}, "fine_tune_type is 'dora'"),
        ({"fine_tune_type": "full"}, "fine_tune_type is 'full'"),
        ({"num_layers": -2}, "num_layers"),
        ({"num_layers": 10**9}, "num_layers"),
        ({"num_layers": None}, "num_layers"),
        ({"lora_parameters": None}, "lora_parameters"),
    ],
)
def test_a_setting_that_cannot_be_served_is_refused_and_named(
    victim: Victim, changes: dict[str, Any], reason: str
) -> None:
    """Never read as if it were plain LoRA."""
    victim.config.write_text(json.dumps(victim.settings | changes))
    assert reason in victim.refusal()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 4}, "has rank 2, the shape says 4"),
        ({"keys": ["mlp.down_proj"]}, "is not among the shape's targets"),
    ],
)
def test_a_configuration_of_another_adapter_is_refused(
    victim: Victim, changes: dict[str, Any], reason: str
) -> None:
    """mlx-lm drops what does not match; a chain's shape would be a lie from then on."""
    parameters = victim.settings["lora_parameters"] | changes
    victim.config.write_text(json.dumps(victim.settings | {"lora_parameters": parameters}))
    assert reason in victim.refusal()
