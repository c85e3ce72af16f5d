"""A small file that asks for memory that it does not fill."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attacks.files.conftest import A, Victim

MIB = 1 << 20


def test_four_megabytes_that_ask_for_eight_gigabytes_are_refused(
    victim: Victim, resident_bytes: Callable[[], int]
) -> None:
    """And cost no more memory than what they are."""
    entry = {"dtype": "F32", "shape": [1 << 30, 2], "data_offsets": [0, 4 * MIB]}
    victim.write({A: entry}, bytes(4 * MIB))
    before = resident_bytes()
    assert "invalid shape" in victim.refusal()
    assert resident_bytes() - before < 128 * MIB


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [1 << 62, 4], [(1 << 64) - 1, 1]])
def test_a_shape_that_overflows_is_refused(victim: Victim, shape: list[int]) -> None:
    """The product of the sizes is not taken modulo 2^64."""
    header = victim.header()
    header[A]["shape"] = shape
    victim.write(header, bytes(64))
    assert "overflow" in victim.refusal()


@pytest.mark.parametrize("shape", [[], [8], [0, 4], [4, 0], [1] * 1000])
def test_a_shape_that_is_no_matrix_is_refused(victim: Victim, shape: list[int]) -> None:
    """Scalars, vectors, nothing, and more dimensions than anything has."""
    size = 0 if 0 in shape else 4 * (8 if shape == [8] else 1)
    victim.write({A: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, bytes(size))
    assert "a matrix is expected" in victim.refusal()
