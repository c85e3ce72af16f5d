"""Reading files that are not trusted, and keeping written ones through a power cut."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from adapters.errors import AdapterFileError, StorageFull, StoreError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SAID = ("No space left", "quota", "[write] ")
"""What libraries say that pass the system's error on as text; MLX the last, without a reason."""


def read_bytes(file: Path, *, most: int) -> bytes:
    """The bytes of a plain file of at most ``most`` bytes.

    One descriptor is opened, checked and read, so that nobody can put another file in between.
    Raises AdapterFileError for what is missing, larger, a link or no plain file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(file, flags)
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"{file} cannot be read: {_reason(file, error)}.") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise AdapterFileError(f"{file} is no plain file; give the directory of an adapter.")
        if status.st_size > most:
            raise AdapterFileError(
                f"{file} has {status.st_size} bytes, at most {most} are read. Give the adapter's "
                "own file, not a model's."
            )
        # The buffer is allocated at once, so it is as large as the file and not as the limit; one
        # byte more shows a file that grows while it is read.
        with os.fdopen(handle, "rb", closefd=False) as stream:
            data = stream.read(status.st_size + 1)
    finally:
        os.close(handle)
    if len(data) != status.st_size:
        raise AdapterFileError(f"{file} changed while it was read; try again.")
    return data


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(file: Path, error: OSError | ValueError) -> str:
    if file.is_symlink():
        return "it is a symbolic link; put the file itself there"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def unwritten(path: Path, error: Exception) -> StoreError:
    """The typed form of what the system, or a library, said about a write."""
    if is_full(error):
        return StorageFull(f"{path} cannot be written, the disk is full: free some space there.")
    return StoreError(f"{path} cannot be written ({error}): mend that.")


def is_full(error: Exception) -> bool:
    """Whether a write ended because the disk, or the limit set for it, is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _SAID)
