"""Where the engine's adapters come from."""

from __future__ import annotations

from adapters.formats.mlx_lm import AdapterFiles
from adapters.stages.revisions import read_revision
from adapters.store import Store


class StoredAdapters:
    """Implements ``server.engine.device.AdapterSource`` on the store's revisions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, revision: str) -> AdapterFiles:
        """The revision's arrays; AdapterFileError where the files are not what was published."""
        return read_revision(self._store, revision)

    def registered(self) -> int:
        """How many revisions there are."""
        return self._store.revision_count()
