"""Which queued stage runs next, and from which parent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from adapters.lineage import Fault, Stage
from adapters.states import StageState
from adapters.store.database import Database
from adapters.store.events import Events
from adapters.store.records import dump, stage_of

# A chain's stages run in order: an earlier one that is queued goes first, and a paused one that has
# started keeps its place, since the head must hold what it learns. One that was paused before it
# started is passed by: it takes the head of the moment when it starts.
_NEXT = """
SELECT * FROM stages AS next
WHERE state = 'queued' AND base = ?
AND NOT EXISTS (
    SELECT 1 FROM stages AS other WHERE other.chain = next.chain
    AND (other.state IN ('running', 'evaluating')
         OR (other.number < next.number
             AND (other.state = 'queued'
                  OR (other.state = 'paused' AND other.started_at IS NOT NULL))))
)
ORDER BY priority DESC, seq LIMIT 1
"""


def claim(
    database: Database, events: Events, clock: Callable[[], float], base: str
) -> Stage | None:
    """Take the next stage: running, with its parent and a new fencing token.

    On the first claim the parent is the head of that moment, which a request may have named. One
    that named another fails with ``parent_moved``, and the next stage is tried.
    """
    changed: list[str] = []
    found: Stage | None = None
    with database.write() as connection:
        while found is None:
            row = connection.execute(_NEXT, (base,)).fetchone()
            if row is None:
                break
            stage = stage_of(row, {})
            changed.append(stage.id)
            fault = _parent(connection, stage) if stage.started_at is None else None
            if fault is not None:
                _fail(connection, events, stage, fault, clock())
                continue
            found = _start(connection, events, stage, clock())
    for stage_id in changed:
        events.announce(stage_id)
    return found


def give_back_all(database: Database, events: Events) -> Sequence[str]:
    """Queue again whatever a stopped process was working on: interrupted is not failed."""
    with database.write() as connection:
        rows = connection.execute(
            "SELECT id FROM stages WHERE state IN ('running', 'evaluating')"
        ).fetchall()
        for row in rows:
            connection.execute("UPDATE stages SET state = 'queued' WHERE id = ?", (row["id"],))
            events.write(connection, row["id"], "state", {"state": StageState.QUEUED})
    return [row["id"] for row in rows]


def _parent(connection: sqlite3.Connection, stage: Stage) -> Fault | None:
    """Write the parent down; a Fault where the head is not the one that was asked for."""
    head = connection.execute(
        "SELECT stages.number, stages.revision FROM chains JOIN stages "
        "ON stages.chain = chains.name AND stages.number = chains.head WHERE chains.name = ?",
        (stage.chain,),
    ).fetchone()
    revision = None if head is None else head["revision"]
    asked = None if stage.request is None else stage.request.parent
    if asked is not None and asked != revision:
        now = "nothing" if head is None else f"stage {head['number']}"
        return Fault(
            "parent_moved",
            f"The stage was to start from {asked[:12]}, and the head of {stage.chain!r} is {now} "
            "by now. Add it again with the new parent, or roll the chain back first.",
        )
    connection.execute("UPDATE stages SET parent = ? WHERE id = ?", (revision, stage.id))
    return None


def _start(connection: sqlite3.Connection, events: Events, stage: Stage, now: float) -> Stage:
    connection.execute(
        "UPDATE stages SET state = 'running', fence = fence + 1, "
        "started_at = coalesce(started_at, ?) WHERE id = ?",
        (now, stage.id),
    )
    events.write(connection, stage.id, "state", {"state": StageState.RUNNING})
    row = connection.execute("SELECT * FROM stages WHERE id = ?", (stage.id,)).fetchone()
    return stage_of(row, {})


def _fail(
    connection: sqlite3.Connection, events: Events, stage: Stage, fault: Fault, now: float
) -> None:
    connection.execute(
        "UPDATE stages SET state = 'failed', error = ?, finished_at = ? WHERE id = ?",
        (dump(fault), now, stage.id),
    )
    data = {
        "state": StageState.FAILED,
        "error": {"code": fault.code, "message": fault.message},
    }
    events.write(connection, stage.id, "state", data)
