"""Why a stage has no revision to serve."""

from __future__ import annotations

from datetime import UTC, datetime

from adapters.lineage import Stage
from adapters.states import StageState


def absence(stage: Stage) -> str | None:
    """Why a stage has no revision to serve, None where it has one."""
    if stage.revision_deleted_at is not None:
        day = datetime.fromtimestamp(stage.revision_deleted_at, UTC).date()
        return f"was deleted on {day}; its lineage record stays."
    if stage.revision is not None:
        return None
    if stage.state is StageState.FAILED and stage.error is not None:
        return f"has no revision: the stage failed ({stage.error.code}: {stage.error.message})"
    if stage.state is StageState.CANCELLED:
        return "has no revision: the stage was cancelled."
    return f"has no revision yet: the stage is {stage.state}."
