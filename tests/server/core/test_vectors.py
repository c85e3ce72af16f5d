"""Vectors of unit length."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from server.core.vectors import unit

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(NUMBERS, st.integers(1, 20))
def test_a_vector_is_cut_first_and_has_unit_length_then(
    numbers: list[float], dimensions: int
) -> None:
    """Its direction among the numbers that are kept stays."""
    kept = numbers[:dimensions]
    found = unit(numbers, dimensions)
    assert len(found) == len(kept)
    length = math.hypot(*kept)
    if length > 1e-100:
        assert math.isclose(math.hypot(*found), 1, rel_tol=1e-9)
        assert all(
            math.isclose(a * length, b, rel_tol=1e-9, abs_tol=1e-9 * length)
            for a, b in zip(found, kept, strict=True)
        )


def test_a_zero_vector_stays_zero() -> None:
    """There is no direction to keep."""
    assert unit([0.0, 0.0]) == [0.0, 0.0]
