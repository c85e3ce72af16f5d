"""Revisions that are listed and whose files are not what was published."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path


class Unavailable:
    """Why which revision cannot be served, as of the last look at its files.

    May be used from any thread: ``reasons`` is replaced as a whole.
    """

    def __init__(self) -> None:
        self._reasons: Mapping[str, str] = {}
        self._lock = threading.Lock()

    @property
    def reasons(self) -> Mapping[str, str]:
        """By revision id."""
        return self._reasons

    def look(self, revisions: Path, sizes: Iterable[tuple[str, int]]) -> None:
        """Look for what is missing among all (revision id, bytes); a bit that fell is not seen."""
        found = ((revision, fault(revisions / revision, size)) for revision, size in sizes)
        self._reasons = {
            revision: f"{what} {cure(revisions / revision)}"
            for revision, what in found
            if what is not None
        }

    def lost(self, revision: str, why: str) -> None:
        """Its files could not be read."""
        with self._lock:
            self._reasons = {**self._reasons, revision: why}

    def found(self, revision: str) -> None:
        """Its files are what was published."""
        if revision in self._reasons:
            with self._lock:
                self._reasons = {key: why for key, why in self._reasons.items() if key != revision}


def fault(directory: Path, nbytes: int) -> str | None:
    """What a look at the sizes of a revision's files shows; None for nothing.

    Files that the system put there, a Mac's for instance, are no fault.
    """
    if not directory.is_dir():
        return "Its files are missing."
    size = sum(file.stat().st_size for file in directory.iterdir())
    if size < nbytes:
        return f"Its files have {size} bytes, {nbytes} were published."
    return None


def cure(directory: Path) -> str:
    """What to do about a revision's directory that is not what was published."""
    return (
        f"Put {directory} back from a backup. Without one: roll the chain to another revision, and "
        "delete this one."
    )
