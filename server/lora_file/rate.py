"""``lr_schedule`` of ``mlx_lm.lora`` as a stage's learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.lora_file.values import Refused, StageFile, mapping, number, whole
from server.screen import shown

_KINDS = {"cosine_decay": "cosine", "linear_schedule": "linear"}


def put_schedule(made: StageFile, given: Mapping[str, Any]) -> None:
    """Map ``lr_schedule``, beside which mlx-lm does not read ``learning_rate``.

    Without it mlx-lm's rate is constant.
    """
    if "lr_schedule" not in given:
        if "learning_rate" in given:
            made.settings |= {"schedule": "constant", "warmup_steps": 0}
        return
    asked = mapping("lr_schedule", given["lr_schedule"])
    if strange := sorted(set(asked) - {"name", "arguments", "warmup", "warmup_init"}):
        raise Refused(f"lr_schedule.{shown(strange[0], most=60)}: mlx_lm.lora has no such key")
    name, arguments = asked.get("name"), asked.get("arguments")
    if not isinstance(name, str) or name not in _KINDS:
        raise Refused(f"lr_schedule.name: a stage has {' and '.join(_KINDS)}")
    if not isinstance(arguments, list) or not 2 <= len(arguments) <= 3:
        raise Refused("lr_schedule.arguments must be a list of two or three numbers")
    found = [number("lr_schedule.arguments", each) for each in arguments]
    if name == "cosine_decay":
        peak, steps, end = (*found, 0.0)[:3]
    elif len(found) == 3:
        peak, end, steps = found
    else:
        raise Refused("lr_schedule.arguments of linear_schedule are start, end and steps")
    warmup = asked.get("warmup") or 0
    if whole("lr_schedule.warmup", warmup) < 0:
        raise Refused("lr_schedule.warmup must not be negative")
    _check_fall(made, peak, end, steps, warmup)
    made.settings |= {"schedule": _KINDS[name], "learning_rate": peak, "warmup_steps": warmup}
    if asked.get("warmup_init"):
        made.notes.append("lr_schedule.warmup_init has no effect: a warm-up rises from near zero")


def _check_fall(made: StageFile, peak: float, end: float, steps: float, warmup: int) -> None:
    """A stage's rate falls to zero at the stage's own end; nothing else may be asked for."""
    if end > peak / 10:
        raise Refused(
            "lr_schedule.arguments: a stage's rate falls to zero; the end must be at most a tenth "
            "of the start"
        )
    length = made.settings.get("iters")
    if length is None:
        made.notes.append("lr_schedule's number of steps has no effect: it is the stage's own")
    elif steps not in (length, length - warmup, length - warmup - 1):
        raise Refused(
            f"lr_schedule.arguments: the rate falls over {steps:g} steps and the stage has "
            f"{length}; a stage's rate falls to its own end, so give them the same number"
        )
    if end:
        made.notes.append("lr_schedule's last rate has no effect: a stage's rate falls to zero")
