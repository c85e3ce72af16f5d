"""What the routes of ``/v1/files`` can do, on the real store."""

from __future__ import annotations

from pathlib import Path

from adapters.lineage import Page, StoredFile
from adapters.store import Store
from adapters.training.dataset import check_dataset


class FileService:
    """Implements ``server.api.files.ports.Files``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def incoming(self) -> Path:
        """A fresh file for an upload."""
        return self._store.incoming()

    def add(
        self, file: Path, *, name: str | None, purpose: str, expires_s: int | None
    ) -> StoredFile:
        """Check every line and keep the file."""
        try:
            rows = check_dataset(file)
            return self._store.files.add(
                file, rows=rows, name=name, purpose=purpose, expires_s=expires_s
            )
        finally:
            file.unlink(missing_ok=True)

    def get(self, file_id: str, *, param: str = "file_id") -> StoredFile:
        """One file."""
        return self._store.files.get(file_id, param=param)

    def list(self, *, purpose: str | None, after: str | None, limit: int, ascending: bool) -> Page:
        """By time of creation."""
        return self._store.files.list(
            purpose=purpose, after=after, limit=limit, ascending=ascending
        )

    def content(self, file_id: str) -> Path | str:
        """Where its bytes lie, or its text."""
        return self._store.files.content(file_id)

    def delete(self, file_id: str) -> None:
        """Forget a file, and the bytes where nothing else has them."""
        self._store.files.delete(file_id)
