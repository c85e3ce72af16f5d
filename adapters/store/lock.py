"""One process owns a data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from adapters.errors import StoreError


class DirectoryLock:
    """Held from its making until ``release``, or until the process ends, however it ends.

    Raises StoreError where another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise StoreError(
                f"The data directory {directory} is in use by process {owner}. Stop that server, "
                "or give this one its own --data-dir."
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have the directory."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
