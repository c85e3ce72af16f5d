"""Training rows, stored by the hash of their bytes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from adapters.errors import DatasetNotFound, DatasetProtected
from adapters.lineage import Dataset, Page
from adapters.store.database import Database
from adapters.store.layout import Layout, keep_file, sha256_of
from adapters.store.records import dataset_of


class Datasets:
    """The data sets of one data directory. May be used from any thread."""

    def __init__(self, database: Database, layout: Layout, clock: Callable[[], float]) -> None:
        self._database = database
        self._layout = layout
        self._clock = clock
        self.placing = threading.Lock()
        """Held from placing a set's file to its row, and from removing a row to its file: adding
        the bytes of a set that is being deleted must not lose them."""

    def add(self, file: Path, *, rows: int, name: str | None) -> Dataset:
        """Keep a checked file, which is moved; the same bytes twice are one data set."""
        dataset_id, nbytes = sha256_of(file)
        dataset = Dataset(dataset_id, nbytes, rows, self._clock(), name)
        with self.placing:
            self.place(file, dataset_id)
            with self._database.write() as connection:
                self.insert(connection, dataset)
        return self.get(dataset_id)

    def place(self, file: Path, dataset_id: str) -> None:
        """Move a file of these bytes to its place; its row must follow, within ``placing``."""
        keep_file(file, self.file(dataset_id))

    def insert(
        self, connection: sqlite3.Connection, dataset: Dataset, *, listed: bool = True
    ) -> None:
        """The row of a file in its place, in somebody's transaction.

        ``listed`` says that it is there for its own sake; else it goes with the last file of it.
        """
        connection.execute(
            "INSERT INTO datasets (id, nbytes, rows, created_at, name, listed) "
            "VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET listed = max(listed, excluded.listed)",
            (
                *(dataset.id, dataset.nbytes, dataset.rows),
                *(dataset.created_at, dataset.name, listed),
            ),
        )

    def get(self, dataset_id: str) -> Dataset:
        """One data set; raises DatasetNotFound."""
        row = self._database.one("SELECT * FROM datasets WHERE id = ?", (dataset_id,))
        if row is None:
            raise DatasetNotFound(
                f"There is no data set {dataset_id!a}; GET /admin/datasets lists them.",
                param="dataset",
            )
        return dataset_of(row)

    def path(self, dataset_id: str) -> Path:
        """Its file; raises DatasetNotFound."""
        return self.file(self.get(dataset_id).id)

    def list(self, *, after: str | None, limit: int) -> Page:
        """Newest first, after ``after``."""
        seq = 1 << 62
        if after is not None:
            self.get(after)
            row = self._database.one("SELECT seq FROM datasets WHERE id = ?", (after,))
            seq = 0 if row is None else row["seq"]
        rows = self._database.all(
            "SELECT * FROM datasets WHERE seq < ? ORDER BY seq DESC LIMIT ?", (seq, limit + 1)
        )
        return Page([dataset_of(row) for row in rows[:limit]], len(rows) > limit)

    def delete(self, dataset_id: str) -> None:
        """Delete one that no unfinished stage needs; raises DatasetProtected."""
        self.get(dataset_id)
        with self.placing:
            self._delete_row(dataset_id)
            self._layout.remove(self.file(dataset_id))

    def _delete_row(self, dataset_id: str) -> None:
        with self._database.write() as connection:
            refuse_needed(connection, dataset_id)
            connection.execute(
                "DELETE FROM files WHERE dataset = ? AND expires_at <= ?",
                (dataset_id, self._clock()),
            )
            row = connection.execute(
                "SELECT id FROM files WHERE dataset = ?", (dataset_id,)
            ).fetchone()
            if row is not None:
                raise DatasetProtected(
                    f"The file {row['id']} has the same bytes: delete that one, at /v1/files."
                )
            connection.execute("DELETE FROM datasets WHERE id = ?", (dataset_id,))

    def file(self, dataset_id: str) -> Path:
        """Where the bytes of a data set lie, whether or not there is one."""
        return self._layout.datasets / f"{dataset_id}.jsonl"


def refuse_needed(connection: sqlite3.Connection, dataset_id: str) -> None:
    """Raise DatasetProtected where an unfinished stage needs the data set."""
    stage = connection.execute(
        "SELECT stage, base FROM needed_datasets WHERE id = ?", (dataset_id,)
    ).fetchone()
    if stage is not None:
        raise DatasetProtected(
            f"The unfinished stage {stage['stage']} needs this data set (its base has the "
            f"fingerprint {stage['base'][:12]}, and it is listed where that is served). "
            "Cancel the stage first, or wait for its end."
        )
