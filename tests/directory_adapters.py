"""Adapters in directories, for engines without a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.formats.revision import revision_id


class DirectoryAdapters:
    """Adapters that lie in directories, by revision id; each is read when it is wanted."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)

    def read(self, revision: str) -> AdapterFiles:
        """The adapter's arrays; OSError where the directory holds another one by now."""
        directory = self._directories[revision]
        files = read_adapter(directory)
        if revision_id(files) != revision:
            raise OSError(f"{directory} changed after the server started; restart the server.")
        return files

    def registered(self) -> int:
        """How many adapters there are."""
        return len(self._directories)
