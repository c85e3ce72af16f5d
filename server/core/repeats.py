"""How long a pattern is once its repetitions are written out."""

from __future__ import annotations

import math
import re
from collections import Counter

_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
"""Of a regular expression, ``{3}`` and ``{1,3}``; of Lark's rules also ``~3`` and ``~1..3``."""

_NAMES = re.compile(r"\b_*[A-Z]\w*")
"""Of Lark's terminals, which are written out where others name them."""
_RULE = re.compile(r"^\s*_*[a-z]\w*\s*:.*$", re.MULTILINE)
"""The first line of a rule, which names terminals and writes out none."""


def most_written_rules(grammar: str) -> int:
    """The same of a grammar of Lark's with the terminals written out, however they are nested.

    One that others name n times multiplies by n, as a count does.
    """
    named = Counter(_NAMES.findall(_RULE.sub("", grammar)))
    return most_written(grammar) * math.prod(max(uses - 1, 1) for uses in named.values())


def most_written(pattern: str) -> int:
    """A bound on the characters of ``pattern`` with every repetition written out.

    As if each stood within each other, which costs no parsing and cannot be evaded.
    """
    most = (
        max((int(count[:20]) for count in match.groups() if count), default=1)
        for match in _COUNTS.finditer(pattern)
    )
    return len(pattern) * math.prod(max(count, 1) for count in most)
