"""Who may write to a stage that the trainer works on."""

from __future__ import annotations

import sqlite3

from adapters.errors import ClaimLost


def check_claim(connection: sqlite3.Connection, stage_id: str, fence: int) -> None:
    """Raise ClaimLost unless the stage is claimed under this fencing token."""
    held = connection.execute(
        "SELECT 1 FROM stages WHERE id = ? AND fence = ? AND state IN ('running', 'evaluating')",
        (stage_id, fence),
    ).fetchone()
    if held is None:
        raise claim_lost(stage_id)


def claim_lost(stage_id: str) -> ClaimLost:
    """The error of a worker whose claim is out of date."""
    return ClaimLost(
        f"Stage {stage_id} is not held by this claim any more; what it does is not recorded."
    )
