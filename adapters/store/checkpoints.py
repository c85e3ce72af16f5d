"""The checkpoints of unfinished stages: the file first, the row second."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

from adapters.formats.files import sync
from adapters.store.claims import check_claim
from adapters.store.database import Database, translated
from adapters.store.layout import Layout

_KEPT = 2


class Checkpoints:
    """The checkpoints of one data directory. May be used from any thread."""

    def __init__(self, database: Database, layout: Layout) -> None:
        self._database = database
        self._layout = layout

    def directory(self, stage_id: str) -> Path:
        """Where the stage's checkpoints lie."""
        directory = self._layout.checkpoints / stage_id
        with translated(directory):
            if not directory.is_dir():
                directory.mkdir(mode=0o700)
                sync(directory.parent)  # a file in it is durable only where it is itself
        return directory

    def add(
        self, stage_id: str, fence: int, step: int, file: str, *, kept: Collection[int] = ()
    ) -> None:
        """Count a written file as the stage's newest checkpoint.

        The last two are kept, and those of the steps in ``kept``.
        """
        with self._database.write() as connection:
            check_claim(connection, stage_id, fence)
            connection.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", (stage_id, step, file)
            )
            rows = connection.execute(
                "SELECT step, file FROM checkpoints WHERE stage = ? ORDER BY step DESC "
                "LIMIT -1 OFFSET ?",
                (stage_id, _KEPT),
            ).fetchall()
            old = [row for row in rows if row["step"] not in kept]
            connection.executemany(
                "DELETE FROM checkpoints WHERE stage = ? AND step = ?",
                [(stage_id, row["step"]) for row in old],
            )
        for row in old:
            self._layout.remove(self._layout.checkpoints / stage_id / row["file"])

    def newest_first(self, stage_id: str) -> Sequence[tuple[int, Path]]:
        """(step, file) of each that is kept."""
        rows = self._database.all(
            "SELECT step, file FROM checkpoints WHERE stage = ? ORDER BY step DESC", (stage_id,)
        )
        directory = self._layout.checkpoints / stage_id
        return [(row["step"], directory / row["file"]) for row in rows]

    def discard(self, stage_id: str, fence: int, step: int) -> None:
        """Count one no longer, and remove its file: it cannot be read."""
        files = dict(self.newest_first(stage_id))
        with self._database.write() as connection:
            check_claim(connection, stage_id, fence)
            connection.execute(
                "DELETE FROM checkpoints WHERE stage = ? AND step = ?", (stage_id, step)
            )
        self._layout.remove(files[step])

    def forget(self, connection: sqlite3.Connection, stage_id: str) -> None:
        """Delete their rows in the transaction that ends the stage; ``drop`` follows its commit."""
        connection.execute("DELETE FROM checkpoints WHERE stage = ?", (stage_id,))

    def drop(self, stage_id: str) -> None:
        """Remove the files of a stage that has ended."""
        directory = self._layout.checkpoints / stage_id
        if directory.exists():
            self._layout.remove(directory)

    def names(self) -> dict[str, set[str]]:
        """The names of all files that count, by stage."""
        found: dict[str, set[str]] = {}
        for row in self._database.all("SELECT stage, file FROM checkpoints"):
            found.setdefault(row["stage"], set()).add(row["file"])
        return found
