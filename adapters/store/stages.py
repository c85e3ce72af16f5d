"""Stages: intake, claim, transitions, progress and checkpoints."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable

from adapters.errors import (
    ChainExists,
    DatasetNotFound,
    IdempotencyConflict,
    ShapeContradiction,
    StageNotFound,
    WrongState,
)
from adapters.lineage import (
    Fault,
    Idempotency,
    Json,
    Origin,
    Page,
    Progress,
    Stage,
    StageRequest,
)
from adapters.shape import LoraShape
from adapters.states import TRANSITIONS, StageState
from adapters.store.checkpoints import Checkpoints
from adapters.store.claims import check_claim, claim_lost
from adapters.store.database import Database
from adapters.store.events import Events
from adapters.store.records import dump, stage_of
from adapters.store.unavailable import Unavailable

_IDEMPOTENT_S = 24 * 3600


class Stages:
    """The stages of one base in one data directory. May be used from any thread.

    Every write of a claimed stage names the fencing token of its claim and raises ClaimLost where
    that is out of date.
    """

    def __init__(
        self,
        database: Database,
        checkpoints: Checkpoints,
        events: Events,
        clock: Callable[[], float],
        unavailable: Unavailable,
        base: str,
    ) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._events = events
        self._clock = clock
        self._unavailable = unavailable
        self._base = base

    def get(self, stage_id: str) -> Stage:
        """One stage; raises StageNotFound."""
        row = self._database.one(
            "SELECT * FROM stages WHERE id = ? AND base = ?", (stage_id, self._base)
        )
        if row is None:
            raise StageNotFound(
                f"There is no stage {stage_id!a}; GET /admin/stages lists them.", param="stage"
            )
        return stage_of(row, self._unavailable.reasons)

    def list(
        self, *, chain: str | None, state: StageState | None, after: str | None, limit: int
    ) -> Page:
        """Newest first, after the stage ``after``; raises StageNotFound for it."""
        seq = 1 << 62
        if after is not None:
            self.get(after)
            row = self._database.one("SELECT seq FROM stages WHERE id = ?", (after,))
            seq = 0 if row is None else row["seq"]
        rows = self._database.all(
            "SELECT * FROM stages WHERE seq < ? AND base = ? AND (? IS NULL OR chain = ?) "
            "AND (? IS NULL OR state = ?) ORDER BY seq DESC LIMIT ?",
            (seq, self._base, chain, chain, state, state, limit + 1),
        )
        reasons = self._unavailable.reasons
        return Page([stage_of(row, reasons) for row in rows[:limit]], len(rows) > limit)

    def find_idempotent(self, asked: Idempotency) -> Stage | None:
        """The stage that the same request made in the last 24 hours; raises IdempotencyConflict."""
        row = self._database.one(
            "SELECT idempotency.* FROM idempotency JOIN stages ON stages.id = stage "
            "WHERE route = ? AND key = ? AND idempotency.created_at > ? AND base = ?",
            (asked.route, asked.key, self._clock() - _IDEMPOTENT_S, self._base),
        )
        if row is None:
            return None
        if row["digest"] != asked.digest:
            raise IdempotencyConflict(
                f"The Idempotency-Key {asked.key!a} was used with another body in the last 24 "
                "hours. Use a new key for a new request."
            )
        return self.get(row["stage"])

    def add(self, request: StageRequest, idempotency: Idempotency | None) -> Stage:
        """Queue a stage under the chain's next number; the chain begins with its first stage."""
        stage_id = f"stage-{secrets.token_hex(12)}"
        with self._database.write() as connection:
            # Inside the transaction: of two that come at once the second finds the first.
            if idempotency is not None and (known := self.find_idempotent(idempotency)):
                return known
            number = self.take_number(connection, request.chain)
            if request.job is not None and request.job.suffix is not None:
                _refuse_begun(connection, request.chain)
            for dataset in {request.dataset, request.validation or request.dataset}:
                if not connection.execute(
                    "SELECT 1 FROM datasets WHERE id = ?", (dataset,)
                ).fetchone():
                    raise DatasetNotFound(f"The data set {dataset} was deleted; upload it again.")
            self.insert(connection, stage_id, request.chain, number, Origin.TRAINED, request)
            self._events.write(connection, stage_id, "state", {"state": StageState.QUEUED})
            if idempotency is not None:
                connection.execute(
                    "DELETE FROM idempotency WHERE created_at <= ?",
                    (self._clock() - _IDEMPOTENT_S,),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)",
                    (
                        idempotency.route,
                        idempotency.key,
                        idempotency.digest,
                        stage_id,
                        self._clock(),
                    ),
                )
        self._events.announce(stage_id)
        return self.get(stage_id)

    def take_number(self, connection: sqlite3.Connection, chain: str) -> int:
        """The chain's next number, never given again; the chain is there afterwards.

        Raises ShapeContradiction for a chain of another base.
        """
        now = self._clock()
        connection.execute(
            "INSERT INTO chains (name, base, created_at) VALUES (?, ?, ?) ON CONFLICT (name) DO "
            "UPDATE SET base = excluded.base, created_at = excluded.created_at, deleted_at = NULL, "
            "first_number = last_number + 1 "
            "WHERE deleted_at IS NOT NULL",
            (chain, self._base, now),
        )
        row = connection.execute(
            "UPDATE chains SET last_number = last_number + 1 WHERE name = ? "
            "RETURNING base, last_number",
            (chain,),
        ).fetchone()
        if row["base"] != self._base:
            raise ShapeContradiction(
                f"The chain {chain!r} belongs to another base model (fingerprint "
                f"{row['base'][:12]}, this one is {self._base[:12]}). Serve that base, or choose "
                "another name for a chain on this one.",
                param="chain",
            )
        return int(row["last_number"])

    def insert(
        self,
        connection: sqlite3.Connection,
        stage_id: str,
        chain: str,
        number: int,
        origin: Origin,
        request: StageRequest | None,
    ) -> None:
        """A new row, queued."""
        connection.execute(
            "INSERT INTO stages (id, chain, number, base, origin, state, request, priority, "
            "created_at) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?)",
            (
                stage_id,
                chain,
                number,
                self._base,
                origin,
                None if request is None else dump(request),
                0 if request is None else request.priority,
                self._clock(),
            ),
        )

    def transition(self, stage_id: str, to: StageState, *, fence: int | None = None) -> Stage:
        """Move a stage; ``fence`` is needed where it is claimed. Raises WrongState, ClaimLost."""
        self.get(stage_id)
        with self._database.write() as connection:
            self.move(connection, stage_id, to, fence)
        return self.ended(stage_id)

    def move(
        self,
        connection: sqlite3.Connection,
        stage_id: str,
        to: StageState,
        fence: int | None,
        *,
        error: Fault | None = None,
        revision: str | None = None,
    ) -> None:
        """``transition`` inside somebody's transaction, with what comes with the new state."""
        row = connection.execute(
            "SELECT state, fence FROM stages WHERE id = ?", (stage_id,)
        ).fetchone()
        state = StageState(row["state"])
        if fence is not None and (row["fence"] != fence or not state.is_claimed):
            raise claim_lost(stage_id)
        allowed = to in TRANSITIONS[state] and to is not StageState.RUNNING  # which a claim begins
        if not allowed or (state.is_claimed and fence is None):
            raise WrongState(
                f"Stage {stage_id} is {state} and cannot become {to} now.", param="stage"
            )
        connection.execute(
            "UPDATE stages SET state = ?, error = ?, revision = ?, finished_at = ? WHERE id = ?",
            (
                to,
                None if error is None else dump(error),
                revision,
                self._clock() if to.is_final else None,
                stage_id,
            ),
        )
        if to.is_final:
            self._checkpoints.forget(connection, stage_id)
        data: dict[str, object] = {"state": to}
        if error is not None:
            data["error"] = {"code": error.code, "message": error.message}
        self._events.write(connection, stage_id, "state", data)

    def suspend(self, stage_id: str, fence: int, fault: Fault) -> Stage:
        """Pause a claimed stage with the reason, which is gone once it is resumed."""
        with self._database.write() as connection:
            self.move(connection, stage_id, StageState.PAUSED, fence, error=fault)
        return self.ended(stage_id)

    def fail(self, stage_id: str, fence: int, fault: Fault) -> Stage:
        """End a claimed stage with the reason."""
        with self._database.write() as connection:
            self.move(connection, stage_id, StageState.FAILED, fence, error=fault)
        return self.ended(stage_id)

    def record(
        self,
        stage_id: str,
        fence: int,
        *,
        progress: Progress | None = None,
        record: Json | None = None,
        shape: LoraShape | None = None,
    ) -> None:
        """Write down what a claimed stage found out."""
        given = {"progress": progress, "record": record, "shape": shape}
        changed = {name: dump(value) for name, value in given.items() if value is not None}
        columns = ", ".join(f"{name} = ?" for name in changed)
        with self._database.write() as connection:
            check_claim(connection, stage_id, fence)
            connection.execute(
                f"UPDATE stages SET {columns} WHERE id = ?", (*changed.values(), stage_id)
            )

    def ended(self, stage_id: str) -> Stage:
        """The stage after a transition was committed: everybody is told, its checkpoints go."""
        self._events.announce(stage_id)
        stage = self.get(stage_id)
        if stage.state.is_final:
            self._checkpoints.drop(stage_id)
        return stage


def _refuse_begun(connection: sqlite3.Connection, chain: str) -> None:
    """Raise ChainExists where the chain has a stage that did not fail and was not cancelled."""
    begun = connection.execute(
        "SELECT 1 FROM stages JOIN chains ON chains.name = chain WHERE chain = ? "
        "AND number >= first_number AND state NOT IN ('failed', 'cancelled')",
        (chain,),
    ).fetchone()
    if begun is not None:
        raise ChainExists(
            f"There is a chain {chain!r} already: name it in model to go on with it, or choose "
            "another suffix to begin one.",
            param="suffix",
        )
