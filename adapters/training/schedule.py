"""The learning rate of each optimizer step."""

from __future__ import annotations

import math

from adapters.lineage import TrainSettings

_WARMUP_SHARE = 20


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """The rate of step ``step`` of ``steps``, counted from 0; never 0 and never over the peak.

    It rises in equal parts over the warm-up and reaches ``settings.learning_rate`` in the step
    after it; then it stays, or falls towards zero in a line or half a cosine, which it would reach
    one step after the last.
    """
    peak = settings.learning_rate
    warmup = warmup_steps(steps, settings)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / (steps - warmup)
    match settings.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))


def warmup_steps(steps: int, settings: TrainSettings) -> int:
    """How many steps the rate rises for: at least one step of a stage has the peak."""
    asked = steps // _WARMUP_SHARE if settings.warmup_steps is None else settings.warmup_steps
    return min(asked, steps - 1)
