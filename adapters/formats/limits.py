"""What an adapter of any format keeps to, so that every part of the product can work with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray, values_of
from adapters.formats.pairs import Pair
from adapters.shape import LoraShape

MOST_RANK = 4096
MOST_SCALE = 1e4
LEAST_SCALE = 2.0**-126
"""Below it float32 has no full precision left; what is multiplied by it is nothing."""
MOST_VALUE = 65504.0
"""The largest float16: a base may compute in it, and infinity in B would reach other rows."""
MOST_TENSORS = 20_000


def check_limits(file: Path, shape: LoraShape, tensors: Mapping[str, Pair]) -> None:
    """Raise AdapterFileError where rank, scale, or the values of A or scale times B are beyond."""
    if shape.rank > MOST_RANK:
        raise AdapterFileError(
            f"{file}: its rank is {shape.rank}, at most {MOST_RANK} is served. Train with less."
        )
    if not LEAST_SCALE <= abs(shape.scale) <= MOST_SCALE:
        raise AdapterFileError(
            f"{file}: its scale is {shape.scale:g}; {LEAST_SCALE:.1e} to {MOST_SCALE:g} are "
            "served. Give the one that it was trained with."
        )
    for module, (a, b) in tensors.items():
        largest = max(_largest(a), abs(shape.scale) * _largest(b))
        if largest > MOST_VALUE:
            raise AdapterFileError(
                f"{file}: {module}: its values, B's times the scale, reach {largest:.3g}, and "
                f"{MOST_VALUE:g} is the most that 16 bits hold; the training run diverged, or the "
                "scale is wrong. Take an earlier checkpoint."
            )


def _largest(array: HostArray) -> float:
    return float(np.abs(values_of(array)).max())
