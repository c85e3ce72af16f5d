"""Which model each request of a load asks. Pure: the same seed chooses the same models."""

from __future__ import annotations

import random
from typing import Literal, get_args

Choice = Literal["identical", "uniform", "zipf", "distinct"]
"""``identical``: always the first model. ``distinct``: requests that run at the same time ask
different ones, each in turn. ``uniform``: drawn, all alike. ``zipf``: drawn, the k-th model with a
weight of k to the power of -1.5, so that of many the first few get most."""

CHOICES: tuple[Choice, ...] = get_args(Choice)
_ZIPF = 1.5


def weights(choice: Choice, models: int) -> list[float]:
    """The share of requests that each of ``models`` models gets in the long run; their sum is 1."""
    if models < 1:
        raise ValueError(f"a choice among {models} models")
    if choice == "identical":
        raw = [1.0] + [0.0] * (models - 1)
    elif choice == "zipf":
        raw = [(rank + 1) ** -_ZIPF for rank in range(models)]
    else:
        raw = [1.0] * models
    total = sum(raw)
    return [weight / total for weight in raw]


def pick(choice: Choice, models: int, *, stream: int, index: int, seed: str) -> int:
    """The model that request ``index`` of ``stream`` asks, from 0 to ``models - 1``."""
    if choice == "distinct":
        return (stream + index) % models
    draw = random.Random(f"{seed}/model/{stream}/{index}")
    return draw.choices(range(models), weights(choice, models))[0]
