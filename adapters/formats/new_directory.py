"""A directory that somebody asked for by name: there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from adapters.formats.files import is_full, sync, unwritten


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill that becomes ``path``, durably, when the block ends without an error.

    Raises FileExistsError where ``path`` exists, also when that comes about inside the block,
    OSError where it cannot be made, and StorageFull for whatever a full disk made the block raise.
    """
    _refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise OSError(
            f"{path} cannot be made ({error.strerror or error}): give a place that can be written."
        ) from error
    try:
        # mkdtemp's own mode would lock out the user that serves.
        part.chmod(0o755)
        yield part
        for file in (*part.iterdir(), part):
            sync(file)
        # A rename would replace an empty directory without a word.
        _refuse_existing(path)
        part.rename(path)
    except Exception as error:
        if is_full(error):
            raise unwritten(path, error) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(path.parent)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not overwritten: give another name.")
