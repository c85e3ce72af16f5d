"""Where things lie in a data directory, and how files get there whole."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
import threading
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import StoreError
from adapters.formats.files import sync
from adapters.store.database import translated

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_HIDDEN = "."
_CHUNK = 1 << 20


class Layout:
    """The directories of one data directory, mode 0700.

    A name that begins with a dot is unfinished: it is never listed, and gone after the next start.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / "chainlora.db"
        self.revisions = root / "revisions"
        self.datasets = root / "datasets"
        self.checkpoints = root / "checkpoints"
        self.incoming = root / "incoming"
        self.placing = threading.RLock()
        """Held from placing a revision's files to their row, and from removing a row to its files:
        the same content may be published by one chain while another deletes it."""

    def make(self) -> None:
        """Create what is missing."""
        with translated(self.root):
            for directory in (
                self.root,
                self.revisions,
                self.datasets,
                self.checkpoints,
                self.incoming,
            ):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)
            sync(self.root)

    def check_database(self) -> None:
        """Raise StoreError where revisions lie here and their database is gone.

        A new one would know none of them, and the sweep would remove them all.
        """
        if self.database.exists() and self.database.stat().st_size:
            return
        if any(not path.name.startswith(_HIDDEN) for path in self.revisions.iterdir()):
            raise StoreError(
                f"{self.root} has revisions and no database that says what they are. Put "
                f"{self.database.name} back from a backup, or move the data directory away to "
                "begin with an empty one."
            )

    def fresh(self, directory: Path) -> Path:
        """A path that nothing has, for something unfinished."""
        return directory / f"{_HIDDEN}{secrets.token_hex(12)}"

    def sweep(
        self,
        *,
        revisions: Iterable[str],
        checkpoints: Mapping[str, Container[str]],
        sets: Iterable[str],
    ) -> None:
        """Remove whatever no row knows: what a crash left between a file and its row.

        ``checkpoints`` are the names of a stage's files, by stage.
        """
        known = set(revisions)
        _remove(path for path in self.revisions.iterdir() if path.name not in known)
        for directory in self.checkpoints.iterdir():
            if directory.name not in checkpoints:
                _remove([directory])
                continue
            files = checkpoints[directory.name]
            _remove(path for path in directory.iterdir() if path.name not in files)
        kept = {f"{each}.jsonl" for each in sets}
        _remove(path for path in self.datasets.iterdir() if path.name not in kept)
        _remove(self.incoming.iterdir())

    def remove(self, path: Path) -> None:
        """Remove a file or a directory whose row is gone; what cannot be is swept later."""
        _remove([path])


def settle(directory: Path, final: Path, manifest: Any) -> None:
    """Complete an adapter directory by its manifest and put it at ``final``, durably.

    What is at ``final`` already has the same content, by its name, and stays.
    """
    with translated(final):
        file = directory / MANIFEST
        file.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        for each in (*directory.iterdir(), directory):
            sync(each)
        if final.exists():
            shutil.rmtree(directory)
        else:
            directory.rename(final)
        sync(final.parent)


def keep_file(file: Path, final: Path) -> None:
    """Put a written file at ``final``, durably."""
    with translated(final):
        sync(file)
        file.replace(final)
        sync(final.parent)


def sha256_of(file: Path) -> tuple[str, int]:
    """Hash and size of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                # First the name: under it lies all or nothing, however this is cut short, because
                # ``settle`` takes what it finds there for complete.
                hidden = path.with_name(f"{_HIDDEN}{secrets.token_hex(12)}")
                shutil.rmtree(path.rename(hidden))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is not needed and could not be removed: %s", path, error)
