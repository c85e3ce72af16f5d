"""When the requests of an open load come. Pure."""

from __future__ import annotations

import random


def poisson(rate: float, count: int, seed: str) -> tuple[float, ...]:
    """Seconds from the start at which ``count`` requests arrive, ``rate`` of them per second.

    The pauses between them are drawn from the exponential distribution of mean ``1 / rate``, which
    makes the arrivals a Poisson process. Raises ValueError unless ``rate`` is positive.
    """
    if not rate > 0:
        raise ValueError(f"{rate} requests per second never arrive")
    draw = random.Random(seed)
    arrivals: list[float] = []
    now = 0.0
    for _ in range(count):
        now += draw.expovariate(rate)
        arrivals.append(now)
    return tuple(arrivals)
