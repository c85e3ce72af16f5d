"""Where the engine's adapters come from."""

from __future__ import annotations

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.formats.revision import revision_id
from adapters.store import Store


class StoredAdapters:
    """Implements ``server.engine.device.AdapterSource`` on the store's revisions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, revision: str) -> AdapterFiles:
        """The revision's arrays; AdapterFileError where the files are not what was published."""
        directory = self._store.revision_path(revision)
        files = read_adapter(directory)
        if revision_id(files) != revision:
            raise AdapterFileError(
                f"{directory} is not what was published under that id: the disk may be failing, "
                "or the files were edited. Delete the revision, or restore it from a backup."
            )
        return files

    def registered(self) -> int:
        """How many revisions there are."""
        return self._store.revision_count()
