"""Vectors of unit length."""

from __future__ import annotations

import math
from collections.abc import Sequence


def unit(vector: Sequence[float], dimensions: int | None = None) -> list[float]:
    """The first ``dimensions`` numbers of ``vector``, None for all, over their Euclidean length.

    A vector that is zero there stays so.
    """
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return [value / length for value in kept] if length else list(kept)
