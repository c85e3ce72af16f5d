"""Numbers below zero, backwards, or no numbers at all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.attacks.files.conftest import A, Victim


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [-4, -2]),
        ("shape", [4.0, 2]),
        ("shape", ["4", 2]),
        ("shape", [4, True]),
        ("data_offsets", [-32, 0]),
        ("data_offsets", [32, 0]),
        ("data_offsets", [0, 32, 64]),
        ("dtype", -1),
        ("dtype", "F33"),
    ],
)
def test_a_field_that_cannot_be_is_refused(victim: Victim, field: str, value: Any) -> None:
    """Before any arithmetic is done with it."""
    header = victim.header()
    header[A][field] = value
    victim.write(header, bytes(64))
    assert "not a sound safetensors file" in victim.refusal()
