"""Values that spread: one NaN in an adapter is NaN in every row of its batch."""

from __future__ import annotations

import struct

import pytest

from tests.attacks.files.conftest import A, B, Victim

NOT_FINITE = {
    "F32": [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001],
    "F16": [0x7C00, 0xFC00, 0x7E00, 0x7C01],
    "BF16": [0x7F80, 0xFF80, 0x7FC0, 0x7F81],
}
CASES = [(dtype, bits) for dtype, each in NOT_FINITE.items() for bits in each]


@pytest.mark.parametrize(("dtype", "bits"), CASES, ids=lambda value: f"{value}")
@pytest.mark.parametrize("place", [0, 7])
def test_a_value_that_is_not_finite_is_refused(
    victim: Victim, dtype: str, bits: int, place: int
) -> None:
    """Infinities and both kinds of NaN, in every type, first and last."""
    width = 4 if dtype == "F32" else 2
    values = [0] * 16
    values[8 + place] = bits
    header = {
        A: {"dtype": dtype, "shape": [4, 2], "data_offsets": [0, 8 * width]},
        B: {"dtype": dtype, "shape": [2, 4], "data_offsets": [8 * width, 16 * width]},
    }
    victim.write(header, struct.pack("<16I" if width == 4 else "<16H", *values))
    assert f"{B} holds values that are not finite" in victim.refusal()
    victim.write(header, struct.pack("<16I" if width == 4 else "<16H", *[1] * 16))
    victim.read()


@pytest.mark.parametrize("dtype", ["F64", "I64", "U64", "C64"])
def test_a_type_that_no_adapter_has_is_refused(victim: Victim, dtype: str) -> None:
    """Eight bytes an element."""
    header = {
        A: {"dtype": dtype, "shape": [4, 2], "data_offsets": [0, 64]},
        B: {"dtype": dtype, "shape": [2, 4], "data_offsets": [64, 128]},
    }
    victim.write(header, bytes(128))
    assert f"is {dtype}; float32, float16 and bfloat16 are served" in victim.refusal()
