"""What the routes of ``/v1/files`` ask of adapter management; every method may block on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from adapters.lineage import Page, StoredFile


class Files(Protocol):
    """Uploads, data sets and results, each by an id of its own."""

    def incoming(self) -> Path:
        """A fresh file on the store's disk for an upload; ``add`` takes it over."""
        ...

    def add(
        self, file: Path, *, name: str | None, purpose: str, expires_s: int | None
    ) -> StoredFile:
        """Check every line and keep the file, for ``expires_s`` seconds or until it is deleted.

        ``file`` is gone afterwards, also on an error. Raises DataError, StorageFull.
        """
        ...

    def get(self, file_id: str, *, param: str = "file_id") -> StoredFile:
        """Raises FileNotFound with the field that named it."""
        ...

    def list(self, *, purpose: str | None, after: str | None, limit: int, ascending: bool) -> Page:
        """By time of creation; raises FileNotFound for ``after``."""
        ...

    def content(self, file_id: str) -> Path | str:
        """Where its bytes lie, or its text; raises FileNotFound."""
        ...

    def delete(self, file_id: str) -> None:
        """Raises FileNotFound, DatasetProtected (an unfinished stage needs it), FileProtected."""
        ...
