"""Whole chains, out of a data directory and into another."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.chain_record import ChainRecord
from adapters.errors import ChainExists
from adapters.lineage import Chain, Dataset, Json, Stage
from adapters.store.chains import Chains
from adapters.store.database import Database
from adapters.store.datasets import Datasets
from adapters.store.events import Events
from adapters.store.layout import Layout
from adapters.store.placing import Placing
from adapters.store.records import dump


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came with a chain: adapter directories with their manifests, and files of rows.

    All of it was checked, lies on the store's disk, and is moved.
    """

    revisions: Mapping[str, tuple[Path, Json]]
    datasets: Sequence[tuple[Dataset, Path]]


class Archive:
    """Takes the lineage of a chain out, and a chain in. May be used from any thread."""

    def __init__(
        self,
        database: Database,
        layout: Layout,
        chains: Chains,
        datasets: Datasets,
        events: Events,
        placing: Placing,
    ) -> None:
        self._database = database
        self._layout = layout
        self._chains = chains
        self._datasets = datasets
        self._events = events
        self._placing = placing

    def record(
        self, name: str, hold: Callable[[ChainRecord], None] = lambda _: None
    ) -> tuple[ChainRecord, Sequence[Stage]]:
        """The lineage of a chain, and its unfinished stages, which are not in there.

        ``hold(record)`` is called before anything can change: what it says is in use then, no
        deletion takes. Raises ChainNotFound, and RevisionNotFound where there is no revision yet.
        """
        with self._database.write() as connection:
            self._chains.resolve(name, None)
            chain, stages = self._chains.get(name), self._chains.stages(name)
            row = connection.execute("SELECT * FROM chains WHERE name = ?", (name,)).fetchone()
            # Without what means something here alone.
            ended = tuple(
                replace(stage, fence=0, unavailable=None)
                for stage in stages
                if stage.state.is_final
            )
            record = ChainRecord(
                name=name,
                base=chain.base,
                created_at=chain.created_at,
                head=row["head"],
                # Its first stage may be among the unfinished: paused before it began.
                first_number=min(
                    each.number for each in ended if each.number >= row["first_number"]
                ),
                last_number=row["last_number"],
                labels=chain.labels,
                stages=ended,
            )
            hold(record)
        return record, [stage for stage in stages if not stage.state.is_final]

    def refuse_taken(self, name: str) -> None:
        """Raise ChainExists where a chain has the name, or had it: its stage numbers are given."""
        row = self._database.one("SELECT base, deleted_at FROM chains WHERE name = ?", (name,))
        if row is None:
            return
        if row["deleted_at"] is None:
            there = f"There is a chain {name!r} already (base {row['base'][:12]})."
        else:
            there = (
                f"There was a chain {name!r} here, whose records and stage numbers stay after its "
                "deletion."
            )
        raise ChainExists(f"{there} Choose another name to open the file as.", param="name")

    def restore(self, record: ChainRecord, arrived: Arrived) -> Chain:
        """Make the chain of a sound record, with its numbers, labels and head; in one transaction.

        A stage keeps its id where no other here has it. Raises ChainExists, StorageFull, and then
        no chain, stage, revision or data set is there that was not before.
        """
        with ExitStack() as still:
            still.enter_context(self._layout.placing)
            still.enter_context(self._datasets.placing)
            connection = still.enter_context(self._database.write())
            self.refuse_taken(record.name)
            for revision, (directory, manifest) in arrived.revisions.items():
                self._placing.place(directory, revision, manifest)
                shape = next(record.holders(revision)).shape
                self._placing.count(connection, revision, shape)
            for dataset, file in arrived.datasets:
                self._datasets.place(file, dataset.id)
                self._datasets.insert(connection, dataset)
            ids = self._insert(connection, record)
        for stage_id in ids:
            self._events.announce(stage_id)
        return self._chains.get(record.name)

    def _insert(self, connection: sqlite3.Connection, record: ChainRecord) -> Sequence[str]:
        """The rows of the chain; the ids of its stages."""
        connection.execute(
            "INSERT INTO chains (name, base, created_at, last_number, first_number) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                *(record.name, record.base, record.created_at),
                *(record.last_number, record.first_number),
            ),
        )
        ids = [self._insert_stage(connection, stage) for stage in record.stages]
        connection.execute("UPDATE chains SET head = ? WHERE name = ?", (record.head, record.name))
        connection.executemany(
            "INSERT INTO labels VALUES (?, ?, ?)",
            [(record.name, label, number) for label, number in record.labels.items()],
        )
        return ids

    def _insert_stage(self, connection: sqlite3.Connection, stage: Stage) -> str:
        taken = connection.execute("SELECT 1 FROM stages WHERE id = ?", (stage.id,)).fetchone()
        stage_id = f"stage-{secrets.token_hex(12)}" if taken else stage.id
        row: dict[str, Any] = {
            "id": stage_id,
            "chain": stage.chain,
            "number": stage.number,
            "base": stage.base,
            "origin": stage.origin,
            "state": stage.state,
            "request": _optional(stage.request),
            "priority": 0 if stage.request is None else stage.request.priority,
            "parent": stage.parent,
            "revision": stage.revision,
            "revision_deleted_at": stage.revision_deleted_at,
            "shape": _optional(stage.shape),
            "progress": dump(stage.progress),
            "metrics": dump(dict(stage.metrics)),
            "record": dump(dict(stage.record)),
            "error": _optional(stage.error),
            "created_at": stage.created_at,
            "started_at": stage.started_at,
            "finished_at": stage.finished_at,
        }
        connection.execute(
            f"INSERT INTO stages ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        )
        self._events.write(connection, stage_id, "state", {"state": stage.state})
        return stage_id


def _optional(value: object) -> str | None:
    return None if value is None else dump(value)
