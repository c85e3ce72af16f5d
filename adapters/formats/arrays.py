"""Tensors in host memory, read without MLX, and their way to the device and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

_STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_BF16_EXPONENT = 0x7F80

FLOATS = frozenset(_STORED)
"""The safetensors names of the types that an adapter may have."""


@dataclass(frozen=True, slots=True, eq=False)
class HostArray:
    """A tensor in host memory: safetensors type (one of FLOATS), shape, little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def is_finite(self) -> bool:
        """Whether no element is infinite or not a number."""
        raw = np.frombuffer(self.data, _STORED[self.dtype])
        if self.dtype == "BF16":
            return bool(((raw & _BF16_EXPONENT) != _BF16_EXPONENT).all())
        return bool(np.isfinite(raw).all())


def values_of(array: HostArray) -> npt.NDArray[np.float32]:
    """The values in float32; exact for every type that an adapter may have."""
    raw = np.frombuffer(array.data, _STORED[array.dtype])
    if array.dtype == "BF16":
        raw = (raw.astype("<u4") << 16).view("<f4")
    return raw.reshape(array.shape).astype(np.float32)


def from_values(values: npt.NDArray[np.float32]) -> HostArray:
    """A float32 tensor of these values."""
    return HostArray("F32", values.shape, np.ascontiguousarray(values, "<f4").tobytes())


def transposed(array: HostArray) -> HostArray:
    """A matrix with rows and columns exchanged, bit for bit."""
    raw = np.frombuffer(array.data, _STORED[array.dtype]).reshape(array.shape)
    return HostArray(array.dtype, array.shape[::-1], np.ascontiguousarray(raw.T).tobytes())


def padded(array: HostArray, axis: int, size: int) -> HostArray:
    """A matrix with zeros appended along ``axis`` until it has ``size`` there."""
    if array.shape[axis] == size:
        return array
    raw = np.frombuffer(array.data, _STORED[array.dtype]).reshape(array.shape)
    more = [(0, size - array.shape[axis] if axis == each else 0) for each in range(2)]
    made = np.pad(raw, more)
    return HostArray(array.dtype, made.shape, made.tobytes())


def to_mlx(array: HostArray) -> mx.array:
    """An MLX array of the same type and shape; call it on the thread that will use the array."""
    raw = np.frombuffer(array.data, _STORED[array.dtype]).reshape(array.shape)
    made = mx.array(raw)
    return made.view(mx.bfloat16) if array.dtype == "BF16" else made


def from_mlx(array: mx.array) -> HostArray:
    """A host copy of a float32, float16 or bfloat16 array; call it on the array's thread."""
    names = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}
    name = names[array.dtype]
    raw = np.array(array.view(mx.uint16) if name == "BF16" else array)
    return HostArray(name, tuple(array.shape), raw.astype(_STORED[name]).tobytes())
