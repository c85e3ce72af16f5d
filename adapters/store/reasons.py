"""Reasons, in words: why there is nothing to serve, why a head stayed."""

from __future__ import annotations

from datetime import UTC, datetime

from adapters.lineage import Chain, Stage
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


def head_stays(chain: Chain, stage: Stage) -> str:
    """Why ``stage``, which succeeds now, does not become the head."""
    now = "nothing" if chain.head is None else f"stage {chain.head}"
    return (
        f"The head of {chain.name} was moved to {now} while this stage ran, and stays there. This "
        f"revision is {chain.name}@{stage.number}; roll the chain to it to make it the head."
    )
