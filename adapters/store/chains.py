"""Chains: names, heads, labels, and what a name resolves to."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from adapters.errors import ChainExists, ChainNotFound, RevisionNotFound, StageError
from adapters.lineage import Chain, Json, Origin, Stage
from adapters.shape import LoraShape
from adapters.states import StageState
from adapters.store.database import Database
from adapters.store.events import Events
from adapters.store.layout import Layout
from adapters.store.placing import Placing
from adapters.store.reasons import absence, head_stays
from adapters.store.records import chain_of, dump, stage_of
from adapters.store.stages import Stages
from adapters.store.unavailable import Unavailable

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_REVISION = re.compile(r"[0-9a-f]{64}")
_MOST = 2**63 - 1  # SQLite's largest integer
_SELECT = (
    "SELECT chains.*, stages.revision AS head_revision FROM chains "
    "LEFT JOIN stages ON stages.chain = chains.name AND stages.number = chains.head "
    "WHERE deleted_at IS NULL AND chains.base = ?"
)

Pin = int | str | None
"""A stage number, a label or a revision id; None is the head."""


class Chains:
    """The chains of one base in one data directory. May be used from any thread."""

    def __init__(
        self,
        database: Database,
        layout: Layout,
        stages: Stages,
        events: Events,
        unavailable: Unavailable,
        clock: Callable[[], float],
        base: str,
    ) -> None:
        self._database = database
        self._layout = layout
        self._stages = stages
        self._events = events
        self._clock = clock
        self._unavailable = unavailable
        self._placing = Placing(layout, unavailable, clock)
        self._base = base

    def list(self) -> Sequence[Chain]:
        """All of them, by name."""
        labels: dict[str, dict[str, int]] = {}
        for row in self._database.all("SELECT * FROM labels"):
            labels.setdefault(row["chain"], {})[row["label"]] = row["number"]
        rows = self._database.all(f"{_SELECT} ORDER BY name", (self._base,))
        reasons = self._unavailable.reasons
        return [chain_of(row, labels.get(row["name"], {}), reasons) for row in rows]

    def present(self) -> Mapping[str, Sequence[int]]:
        """The numbers of the stages whose revision can be served, by chain and rising."""
        found: dict[str, list[int]] = {}
        for row in self._database.all(
            "SELECT chain, number, revision FROM stages WHERE base = ? AND revision IS NOT NULL "
            "AND revision_deleted_at IS NULL ORDER BY chain, number",
            (self._base,),
        ):
            if row["revision"] not in self._unavailable.reasons:
                found.setdefault(row["chain"], []).append(row["number"])
        return found

    def get(self, name: str) -> Chain:
        """One chain; raises ChainNotFound."""
        row = self._database.one(f"{_SELECT} AND name = ?", (self._base, name))
        if row is None:
            raise ChainNotFound(
                f"There is no chain {name!a} on this base; GET /admin/chains lists them.",
                param="chain",
            )
        found = self._database.all("SELECT * FROM labels WHERE chain = ?", (name,))
        labels = {each["label"]: each["number"] for each in found}
        return chain_of(row, labels, self._unavailable.reasons)

    def stages(self, name: str) -> Sequence[Stage]:
        """All stages of a chain by number, also those without a revision; raises ChainNotFound."""
        self.get(name)
        rows = self._database.all("SELECT * FROM stages WHERE chain = ? ORDER BY number", (name,))
        return [stage_of(row, self._unavailable.reasons) for row in rows]

    def first(self, name: str) -> Stage:
        """The stage that the chain began with; raises ChainNotFound.

        Not that of an earlier chain, deleted since, whose name this one has.
        """
        self.get(name)
        sql = "SELECT first_number FROM chains WHERE name = ?"
        return self.stage(name, self._database.all(sql, (name,))[0]["first_number"])

    def stage(self, name: str, number: int) -> Stage:
        """One stage of a chain, with or without a revision; raises RevisionNotFound."""
        row = self._database.one(
            "SELECT * FROM stages WHERE chain = ? AND number = ?", (name, min(number, _MOST))
        )
        if row is None:
            raise RevisionNotFound(f"{name!r} has no stage {number}.", param="revision")
        return stage_of(row, self._unavailable.reasons)

    def resolve(self, name: str, pin: Pin) -> Stage:
        """The stage whose revision a name means.

        Raises ChainNotFound, and RevisionNotFound with the reason: no such number, failed,
        cancelled, not there yet, deleted on a day.
        """
        chain = self.get(name)
        stage = self.stage(name, self._number(chain, pin))
        if reason := absence(stage):
            raise RevisionNotFound(f"{name}@{stage.number} {reason}", param="revision")
        return stage

    def _usable(self, name: str, pin: Pin) -> Stage:
        """``resolve``, for who will serve or train on it; raises RevisionNotFound."""
        stage = self.resolve(name, pin)
        if stage.unavailable is not None:
            raise RevisionNotFound(
                f"{name}@{stage.number} cannot be used. {stage.unavailable}", param="revision"
            )
        return stage

    def rollback(self, name: str, pin: Pin) -> Chain:
        """Move the head to the revision that ``pin`` names, earlier or later."""
        with self._database.write() as connection:
            number = self._usable(name, pin).number
            connection.execute("UPDATE chains SET head = ? WHERE name = ?", (number, name))
        return self.get(name)

    def set_label(self, name: str, label: str, pin: Pin) -> Chain:
        """Point a label at the revision that ``pin`` names; raises StageError for a bad label."""
        if not _LABEL.fullmatch(label) or _REVISION.fullmatch(label):
            raise StageError(
                f"{label!a} cannot be a label: a letter, then letters, digits, '.', '_' and '-', "
                "at most 64, and not the form of a revision id.",
                param="label",
            )
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO labels VALUES (?, ?, ?)",
                (name, label, self._usable(name, pin).number),
            )
        return self.get(name)

    def remove_label(self, name: str, label: str) -> Chain:
        """Take a label away; raises RevisionNotFound where there is none."""
        if label not in self.get(name).labels:
            raise RevisionNotFound(f"{name!r} has no label {label!a}.", param="label")
        with self._database.write() as connection:
            connection.execute("DELETE FROM labels WHERE chain = ? AND label = ?", (name, label))
        return self.get(name)

    def publish(
        self,
        stage_id: str,
        fence: int,
        revision: str,
        directory: Path,
        *,
        shape: LoraShape,
        manifest: Json,
        metrics: Json,
    ) -> Stage:
        """Make a written adapter the stage's revision, and the chain's head if its parent still is.

        A head that was moved meanwhile stays: it may hold what this stage has not learned. One
        transaction, committed once the files are there: revision, metrics, state and head.
        ``directory`` is gone afterwards, also where this fails. Raises ClaimLost.
        """
        with self._placing.held(directory), self._database.write() as connection:
            stage = self._stages.get(stage_id)
            chain = self.get(stage.chain)
            if not (moves := chain.head_revision == stage.parent):
                warning = {"message": head_stays(chain, stage)}
                self._events.write(connection, stage_id, "warning", warning)
            self._stages.move(connection, stage_id, StageState.SUCCEEDED, fence, revision=revision)
            self._placing.place(directory, revision, manifest)
            self._placing.count(connection, revision, shape)
            connection.execute(
                "UPDATE stages SET shape = ?, metrics = ? WHERE id = ?",
                (dump(shape), dump(dict(metrics)), stage_id),
            )
            if moves:
                connection.execute(
                    "UPDATE chains SET head = ? WHERE name = ?", (stage.number, stage.chain)
                )
        return self._stages.ended(stage_id)

    def import_revision(
        self,
        name: str,
        directory: Path,
        revision: str,
        *,
        shape: LoraShape,
        manifest: Json,
        origin: Origin,
        record: Json | None = None,
    ) -> Stage:
        """A new chain that begins with a written adapter from elsewhere; raises ChainExists.

        ``record`` says where it came from. ``directory`` is gone afterwards, also where this fails.
        """

        def place(connection: sqlite3.Connection) -> None:
            self._placing.place(directory, revision, manifest)
            self._placing.count(connection, revision, shape)

        with self._placing.held(directory):
            return self._begin(name, revision, shape, origin, place, record or {})

    def fork(self, name: str, new: str, pin: Pin) -> Chain:
        """A new chain that begins with the revision that ``pin`` names; raises ChainExists."""
        with self._layout.placing:
            stage = self._usable(name, pin)
            self._begin(new, str(stage.revision), stage.shape, Origin.FORKED, lambda _: None)
        return self.get(new)

    def _begin(
        self,
        name: str,
        revision: str,
        shape: LoraShape | None,
        origin: Origin,
        place: Callable[[sqlite3.Connection], None],
        record: Json = MappingProxyType({}),
    ) -> Stage:
        stage_id = f"stage-{secrets.token_hex(12)}"
        now = self._clock()
        with self._database.write() as connection:
            there = connection.execute(
                "SELECT base FROM chains WHERE name = ? AND deleted_at IS NULL", (name,)
            ).fetchone()
            if there is not None:
                raise self._exists(name, there["base"])
            number = self._stages.take_number(connection, name)
            place(connection)
            connection.execute(
                "INSERT INTO stages (id, chain, number, base, origin, revision, shape, record, "
                "state, created_at, started_at, finished_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'succeeded', ?, ?, ?)",
                (
                    *(stage_id, name, number, self._base, origin, revision),
                    *(dump(shape), dump(dict(record)), now, now, now),
                ),
            )
            connection.execute("UPDATE chains SET head = ? WHERE name = ?", (number, name))
            self._events.write(connection, stage_id, "state", {"state": StageState.SUCCEEDED})
        self._events.announce(stage_id)
        return self._stages.get(stage_id)

    def _exists(self, name: str, base: str) -> ChainExists:
        if base == self._base:
            cure = "Choose another name, or delete it first."
        else:
            cure = (
                f"It belongs to another base model (fingerprint {base[:12]}) and is listed where "
                "that one is served. Choose another name, or another data directory."
            )
        return ChainExists(f"There is a chain {name!r} already. {cure}", param="name")

    def _number(self, chain: Chain, pin: Pin) -> int:
        if pin is None:
            if chain.head is None:
                why = f"{chain.name!r} has no revision yet: its first stage has not ended."
                raise RevisionNotFound(why, param="revision")
            return chain.head
        if isinstance(pin, int):
            return pin
        if pin in chain.labels:
            return chain.labels[pin]
        row = self._database.one(
            "SELECT number FROM stages WHERE chain = ? AND revision = ? "
            "ORDER BY revision_deleted_at IS NOT NULL, number DESC LIMIT 1",
            (chain.name, pin),
        )
        if row is None:
            raise RevisionNotFound(
                f"{chain.name!r} has no stage number, revision id or label {pin!a}; "
                f"GET /admin/chains/{chain.name} lists them.",
                param="revision",
            )
        return int(row["number"])
