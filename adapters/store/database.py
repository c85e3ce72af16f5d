"""SQLite, opened so that what is committed survives a power cut."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from adapters.errors import StorageFull, StoreError
from adapters.store.schema import bring_up_to_date

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
Row = sqlite3.Row
Values = Sequence[Any]


class Database:
    """One writer, one reader; every method may be called from any thread.

    Readers never wait for a commit's fsync. Raises StoreError for a file that cannot be used.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        with ExitStack() as opened, translated(file):
            self._writer = opened.enter_context(closing(_connect(file)))
            bring_up_to_date(self._writer, file)
            self._reader = opened.enter_context(closing(_connect(file)))
            opened.pop_all()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, undone by an exception. Not nested."""
        with self._write_lock, translated(self._file):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def all(self, sql: str, values: Values = ()) -> list[Row]:
        """The rows of a query, as of the last commit."""
        with self._read_lock, translated(self._file):
            return self._reader.execute(sql, values).fetchall()

    def one(self, sql: str, values: Values = ()) -> Row | None:
        """The first row of a query."""
        found = self.all(sql, values)
        return found[0] if found else None

    def close(self) -> None:
        """Give the file back."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the disk's and SQLite's own errors into typed ones that say what to do."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise _typed(path, error) from error
    except OSError as error:
        if error.errno in _FULL:
            raise full(path) from error
        raise


def full(path: Path) -> StorageFull:
    """The error for a disk without room."""
    return StorageFull(
        f"The disk that holds {path} is full. Free some space there; nothing was lost, and what "
        "was running can be resumed."
    )


def _typed(path: Path, error: sqlite3.Error) -> StoreError:
    text = str(error)
    if "full" in text:
        return full(path)
    if "locked" in text:
        return StoreError(
            f"{path} is being written by another program. Nothing was changed; close that program, "
            "a database browser perhaps, and try again."
        )
    if "unable to open" in text:
        return StoreError(
            f"{path} cannot be opened: let this user read and write it and its directory."
        )
    if "closed database" in text:
        return StoreError(f"{path} is closed: the server is stopping. Try again when it is back.")
    return StoreError(
        f"{path} cannot be used ({error}). Restore it from a backup, or move the data directory "
        "away to begin with an empty one."
    )
