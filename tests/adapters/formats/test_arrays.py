"""Tensors reach the device as they lie in the file, and come back."""

from __future__ import annotations

import struct

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.formats.arrays import FLOATS, HostArray, from_mlx, to_mlx

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


@st.composite
def host_arrays(draw: st.DrawFn) -> HostArray:
    """Any bits, in any type and any small matrix."""
    dtype = draw(st.sampled_from(sorted(FLOATS)))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    size = shape[0] * shape[1] * WIDTH[dtype]
    return HostArray(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


def bits(array: mx.array) -> bytes:
    """The array's bytes, NaN payloads included."""
    return np.array(array.view(mx.uint8)).tobytes()


@given(host_arrays())
def test_every_bit_reaches_the_device(array: HostArray) -> None:
    """No value is converted, whatever it is."""
    made = to_mlx(array)
    assert (made.shape, made.dtype.size) == (array.shape, WIDTH[array.dtype])
    assert bits(made) == array.data


@given(host_arrays())
def test_the_way_there_and_back_changes_nothing(array: HostArray) -> None:
    """Type, shape and bits."""
    back = from_mlx(to_mlx(array))
    assert (back.dtype, back.shape, back.data) == (array.dtype, array.shape, array.data)


@pytest.mark.parametrize(("dtype", "raw"), [("F32", 0x3FC00000), ("F16", 0x3E00), ("BF16", 0x3FC0)])
def test_the_number_is_the_one_that_the_type_says(dtype: str, raw: int) -> None:
    """1.5, written down bit by bit."""
    data = raw.to_bytes(WIDTH[dtype], "little")
    made = to_mlx(HostArray(dtype, (1, 1), data))
    expected = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
    assert made.dtype == expected[dtype]
    assert made.astype(mx.float32).tolist() == [[1.5]]


def test_a_transposed_array_comes_back_in_row_order() -> None:
    """What a view looks like, not what lies under it."""
    array = mx.array([[1.0, 2.0], [3.0, 4.0]]).T
    assert from_mlx(array).data == struct.pack("<4f", 1, 3, 2, 4)


@given(host_arrays())
def test_finite_is_what_numpy_calls_finite(array: HostArray) -> None:
    """Checked on the bits for bfloat16, which numpy does not know."""
    values = np.array(to_mlx(array).astype(mx.float32))
    assert array.is_finite() == bool(np.isfinite(values).all())


def test_an_array_knows_its_number_of_elements() -> None:
    """Not of bytes."""
    assert HostArray("F16", (3, 5), bytes(30)).size == 15
