"""What may be asked of a stage that runs."""

from __future__ import annotations

import enum

from adapters.states import StageState


class Ask(enum.Enum):
    """What a running stage may be asked to do before its end."""

    CANCEL = "cancel"
    PAUSE = "pause"
    STOP = "stop"
    """The process ends: keep a checkpoint and give the attempt back."""


def left_in(ask: Ask | None) -> StageState:
    """The state that a stage is in once it has done as it was asked; None takes nothing back."""
    states = {Ask.CANCEL: StageState.CANCELLED, Ask.PAUSE: StageState.PAUSED}
    return StageState.QUEUED if ask is None else states.get(ask, StageState.QUEUED)
