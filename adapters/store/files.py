"""Files: names for the bytes of data sets, as OpenAI's clients know them."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from adapters.errors import FileNotFound, FileProtected
from adapters.lineage import Dataset, Page, StoredFile
from adapters.store.database import Database
from adapters.store.datasets import Datasets, refuse_needed
from adapters.store.layout import Layout, sha256_of
from adapters.store.results import Results

_SHOWN = "(expires_at IS NULL OR expires_at > ?) AND (base IS NULL OR base = ?)"


class Files:
    """The files of one data directory. May be used from any thread.

    The same bytes twice are two files of one data set, and its bytes go with the last that has
    them. A data set is itself a file, by an id that its hash is in; so is what each finished stage
    measured.
    """

    def __init__(
        self,
        database: Database,
        layout: Layout,
        datasets: Datasets,
        results: Results,
        clock: Callable[[], float],
        base: str,
    ) -> None:
        self._database = database
        self._layout = layout
        self._datasets = datasets
        self._results = results
        self._clock = clock
        self._base = base

    def add(
        self, file: Path, *, rows: int, name: str | None, purpose: str, expires_s: int | None
    ) -> StoredFile:
        """Keep a checked file, which is moved; it is gone ``expires_s`` seconds later."""
        dataset_id, nbytes = sha256_of(file)
        file_id, now = f"file-{secrets.token_hex(12)}", self._clock()
        expires_at = None if expires_s is None else now + expires_s
        with self._datasets.placing:
            self._datasets.place(file, dataset_id)
            with self._database.write() as connection:
                dataset = Dataset(dataset_id, nbytes, rows, now, name)
                self._datasets.insert(connection, dataset, listed=False)
                connection.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)",
                    (file_id, dataset_id, name or f"{file_id}.jsonl", purpose, now, expires_at),
                )
        self.expire()
        return self.get(file_id)

    def get(self, file_id: str, *, param: str = "file_id") -> StoredFile:
        """One file; raises FileNotFound with the field that named it."""
        row = self._database.one(
            f"SELECT * FROM all_files WHERE id = ? AND {_SHOWN}",
            (file_id, self._clock(), self._base),
        )
        if row is None:
            raise FileNotFound(
                f"There is no file {file_id!a}; GET /v1/files lists those that are there.",
                param=param,
            )
        return self._file(row)

    def list(self, *, purpose: str | None, after: str | None, limit: int, ascending: bool) -> Page:
        """By time of creation, after the file ``after``; raises FileNotFound for it."""
        self.expire()
        order, beyond = ("ASC", ">") if ascending else ("DESC", "<")
        place: tuple[float, str] | None = None
        if after is not None:
            last = self.get(after, param="after")
            place = (last.created_at, last.id)
        at, last_id = place or (0.0, "")
        rows = self._database.all(
            f"SELECT * FROM all_files WHERE listed AND {_SHOWN} AND (? IS NULL OR purpose = ?) "
            f"AND (? OR (created_at, id) {beyond} (?, ?)) "
            f"ORDER BY created_at {order}, id {order} LIMIT ?",
            (
                *(self._clock(), self._base, purpose, purpose),
                *(place is None, at, last_id, limit + 1),
            ),
        )
        return Page([self._file(row) for row in rows[:limit]], len(rows) > limit)

    def content(self, file_id: str) -> Path | str:
        """Where its bytes lie, or its text; raises FileNotFound."""
        file = self.get(file_id)
        if file.stage is not None:
            return self._results.csv(file.stage)
        path = self._datasets.path(str(file.dataset))
        if not path.is_file():
            raise FileNotFound(f"{_lost(path)}", param="file_id")
        return path

    def delete(self, file_id: str) -> None:
        """Forget a file, and the bytes where nothing else has them.

        Raises FileNotFound, DatasetProtected where an unfinished stage needs them, FileProtected
        for what a stage measured.
        """
        file = self.get(file_id)
        if file.dataset is None:
            raise FileProtected(
                f"{file_id} is what the stage {file.stage} measured, a part of its record, which "
                "stays."
            )
        with self._datasets.placing:
            with self._database.write() as connection:
                let_go = (
                    "UPDATE datasets SET listed = 0 WHERE listed AND 'file-' || id = ? RETURNING 1",
                    "DELETE FROM files WHERE id = ? RETURNING 1",
                )
                found = [connection.execute(sql, (file_id,)).fetchone() for sql in let_go]
                if not any(found):
                    raise FileNotFound(
                        f"{file_id} is the data set of other files; delete those.", param="file_id"
                    )
                gone = _drop(connection, file.dataset)
            if gone:
                self._layout.remove(self._datasets.file(file.dataset))

    def expire(self) -> None:
        """Let go of the bytes of files whose time has come; what a stage needs waits for its end.

        Nobody finds such a file any more, whether or not this was called.
        """
        now = self._clock()
        if self._database.one("SELECT 1 FROM files WHERE expires_at <= ?", (now,)) is None:
            return
        with self._datasets.placing:
            removed: list[str] = []
            with self._database.write() as connection:
                rows = connection.execute(
                    "DELETE FROM files WHERE expires_at <= ? AND dataset NOT IN "
                    "(SELECT id FROM needed_datasets) RETURNING dataset",
                    (now,),
                ).fetchall()
                removed = [
                    dataset
                    for dataset in {row["dataset"] for row in rows}
                    if _drop(connection, dataset)
                ]
            for dataset in removed:
                self._layout.remove(self._datasets.file(dataset))

    def _file(self, row: sqlite3.Row) -> StoredFile:
        nbytes, fault = row["nbytes"], None
        if row["stage"] is not None:
            nbytes = self._results.nbytes(row["stage"])
        elif not (path := self._datasets.file(row["dataset"])).is_file():
            fault = _lost(path)
        return StoredFile(
            id=row["id"],
            filename=row["filename"],
            purpose=row["purpose"],
            nbytes=nbytes,
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            dataset=row["dataset"],
            stage=row["stage"],
            fault=fault,
        )


def _lost(path: Path) -> str:
    return f"{path} is missing: put it back from a backup, or delete the file and upload it again."


def _drop(connection: sqlite3.Connection, dataset: str) -> bool:
    """Delete a data set that nothing holds; whether it went. Raises DatasetProtected."""
    held = connection.execute(
        "SELECT 1 FROM datasets WHERE id = ? AND (listed OR EXISTS "
        "(SELECT 1 FROM files WHERE dataset = datasets.id))",
        (dataset,),
    ).fetchone()
    if held is not None:
        return False
    refuse_needed(connection, dataset)
    connection.execute("DELETE FROM datasets WHERE id = ?", (dataset,))
    return True
