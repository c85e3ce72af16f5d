"""The states of a stage, and which may follow which."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class StageState(enum.StrEnum):
    """Where a stage stands."""

    VALIDATING = "validating"
    """Accepted, its data still being checked."""
    QUEUED = "queued"
    """Waits for the trainer, from the start or from its last checkpoint."""
    RUNNING = "running"
    """The trainer works on it. At most one stage of a chain is."""
    PAUSED = "paused"
    """Stopped by a person after a checkpoint, or by a full disk, which its error says; resuming
    queues it again."""
    EVALUATING = "evaluating"
    """Trained; being measured, verified and published."""
    HELD = "held"
    """Its candidate waits to be published or discarded."""
    SUCCEEDED = "succeeded"
    """Its revision is published."""
    FAILED = "failed"
    """Stopped by an error, which the stage carries; nothing was published."""
    CANCELLED = "cancelled"
    """Stopped by a person; nothing was published."""

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return not TRANSITIONS[self]

    @property
    def is_claimed(self) -> bool:
        """Whether the trainer holds the stage, so that every write carries its fencing token."""
        return self in (StageState.RUNNING, StageState.EVALUATING)


TRANSITIONS: Mapping[StageState, frozenset[StageState]] = {
    StageState.VALIDATING: frozenset({StageState.QUEUED, StageState.FAILED, StageState.CANCELLED}),
    StageState.QUEUED: frozenset(
        {StageState.RUNNING, StageState.PAUSED, StageState.FAILED, StageState.CANCELLED}
    ),
    # Back to queued: the process stopped, the attempt is given back.
    StageState.RUNNING: frozenset(
        {
            StageState.QUEUED,
            StageState.PAUSED,
            StageState.EVALUATING,
            StageState.FAILED,
            StageState.CANCELLED,
        }
    ),
    StageState.PAUSED: frozenset({StageState.QUEUED, StageState.CANCELLED}),
    StageState.EVALUATING: frozenset(
        {
            StageState.QUEUED,
            StageState.PAUSED,
            StageState.HELD,
            StageState.SUCCEEDED,
            StageState.FAILED,
            StageState.CANCELLED,
        }
    ),
    StageState.HELD: frozenset({StageState.SUCCEEDED, StageState.CANCELLED}),
    StageState.SUCCEEDED: frozenset(),
    StageState.FAILED: frozenset(),
    StageState.CANCELLED: frozenset(),
}
"""What may follow each state."""
