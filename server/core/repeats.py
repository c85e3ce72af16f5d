"""How long a pattern is once its repetitions are written out."""

from __future__ import annotations

import math
import re

_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
"""Of a regular expression, ``{3}`` and ``{1,3}``; of Lark's rules also ``~3`` and ``~1..3``."""


def most_written(pattern: str) -> int:
    """A bound on the characters of ``pattern`` with every repetition written out.

    As if each stood within each other, which costs no parsing and cannot be evaded.
    """
    most = (
        max((int(count[:20]) for count in match.groups() if count), default=1)
        for match in _COUNTS.finditer(pattern)
    )
    return len(pattern) * math.prod(max(count, 1) for count in most)
