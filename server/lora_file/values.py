"""What the keys of a file may hold, and what they become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class StageFile:
    """What a file asks for, in the words of ``POST /admin/stages``.

    ``data`` is a directory with ``train.jsonl`` and perhaps ``valid.jsonl``. ``notes`` say which
    keys have no effect here, and why.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    data: Path | None = None
    notes: list[str] = field(default_factory=list)


class Refused(Exception):
    """``str()`` says what is wrong with which key."""


def whole(key: str, value: Any) -> int:
    """A whole number; Refused for anything else, also for a truth value."""
    if type(value) is not int:
        raise Refused(f"{key} must be a whole number")
    return value


def positive(key: str, value: Any) -> int:
    """A whole number from 1 up, or Refused."""
    if whole(key, value) < 1:
        raise Refused(f"{key} must be at least 1")
    return int(value)


def number(key: str, value: Any) -> float:
    """A finite number, or Refused."""
    # YAML 1.1 takes 1e-5 for text; mlx-lm teaches its reader otherwise.
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Refused(f"{key} must be a number")
    return found


def mapping(key: str, value: Any) -> Mapping[str, Any]:
    """A mapping of names without those whose value is null, or Refused."""
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value):
        raise Refused(f"{key} must be a mapping of names")
    return {name: each for name, each in value.items() if each is not None}
