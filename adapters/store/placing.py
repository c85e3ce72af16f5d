"""The files of a revision, put in place before the row that counts them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.lineage import Json
from adapters.shape import LoraShape
from adapters.store.layout import Layout, settle
from adapters.store.records import dump
from adapters.store.unavailable import Unavailable


class Placing:
    """Puts adapter directories under their revision's id."""

    def __init__(
        self, layout: Layout, unavailable: Unavailable, clock: Callable[[], float]
    ) -> None:
        self._layout = layout
        self._unavailable = unavailable
        self._clock = clock

    @contextmanager
    def held(self, directory: Path) -> Iterator[None]:
        """Hold the layout still, and leave nothing unfinished behind.

        What is in place already stays after a failure, until the next start: a commit that reports
        an error may yet be found done.
        """
        with self._layout.placing:
            try:
                yield
            finally:
                if directory.exists():
                    self._layout.remove(directory)

    def place(self, directory: Path, revision: str, manifest: Json) -> None:
        """Complete ``directory`` and move it; what is there stays, unless it is damaged."""
        final = self._layout.revisions / revision
        if revision in self._unavailable.reasons and final.exists():
            self._layout.remove(final)
        settle(directory, final, manifest)
        self._unavailable.found(revision)

    def count(self, connection: sqlite3.Connection, revision: str, shape: LoraShape | None) -> None:
        """The row of what lies under the id."""
        directory = self._layout.revisions / revision
        nbytes = sum(file.stat().st_size for file in directory.iterdir())
        connection.execute(
            "INSERT INTO revisions VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET nbytes = excluded.nbytes",
            (revision, dump(shape), nbytes, self._clock()),
        )
