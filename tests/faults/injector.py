"""Ends a process, cuts its power or fills its disk at a chosen step towards the disk.

A step is whatever makes something last or go: creating a directory, renaming, removing, syncing,
and SQLite's COMMIT. What lies between two steps (bytes written to an unfinished file, rows of an
open transaction) no reader may count on, and a cut power takes it away.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")
NEED_ROOM = frozenset({"mkdir", "rename", "replace", "fsync", "COMMIT"})
DATABASE = "chainlora.db"

Act = Callable[[str], None]


class Dead(BaseException):
    """The process has ended here: nothing that is done afterwards reaches the disk."""


class Injector:
    """Calls ``act`` with a step's name before the ``at``-th step and every later one.

    ``steps`` names all that were begun, the last one being the one that was not done. Nothing waits
    for the disk unless it ``syncs``: a process that ends loses nothing that the system was given.
    """

    def __init__(self, at: int | None, act: Act, *, syncs: bool = False) -> None:
        self.steps: list[str] = []
        self._syncs = syncs
        self._at = at
        self._act = act

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every step of this process passes here meanwhile."""
        real = sqlite3.connect
        outer = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    outer._step("COMMIT")
                if sql.startswith("PRAGMA synchronous") and not outer._syncs:
                    sql = "PRAGMA synchronous = OFF"
                return super().execute(sql, *values)

        with ExitStack() as patches:
            for name in STEPS:
                patches.enter_context(mock.patch.object(os, name, self._stepping(name)))
            connect = mock.patch.object(
                sqlite3, "connect", lambda *given, **more: real(*given, factory=Connection, **more)
            )
            patches.enter_context(connect)
            yield

    def end(self) -> None:
        """A last step after the last, to end there too."""
        self._step("the end")

    def _stepping(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)
        if name == "fsync" and not self._syncs:
            real = _no_wait

        def call(*given: Any, **more: Any) -> Any:
            self._step(name)
            return real(*given, **more)

        return call

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self._at is not None and len(self.steps) >= self._at:
            self._act(name)


def _no_wait(_handle: int) -> None:
    pass


def die(_step: str) -> None:
    """End as if killed, for a test that looks at the files from the same process."""
    raise Dead


def kill(_step: str) -> None:
    """End this process without any clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


class FullDisk:
    """Refuses steps that need room, ``times`` in all. Removing needs none.

    Without ``times`` it stays full, until somebody ends the process after PATIENCE refusals.
    """

    PATIENCE = 6

    def __init__(self, times: int | None = None) -> None:
        self._left = times
        self._refused = 0

    def __call__(self, step: str) -> None:
        """Refuse the step."""
        if step not in NEED_ROOM or self._left == 0:
            return
        self._refused += 1
        if self._left is not None:
            self._left -= 1
        elif self._refused > self.PATIENCE:
            raise Dead
        if step == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class PowerCut:
    """What of a directory would be left if the power failed now.

    Lost are the entries that were made in a directory since it was synced, and half of every file
    that was not synced since it was written. SQLite's own files are left to SQLite, which syncs
    them before a COMMIT returns. What lies there at the beginning is on the disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[int, tuple[int, int]] = {}
        self._entries: dict[int, set[str]] = {}
        for path in (root, *root.rglob("*")):
            self._keep(path.lstat(), path)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every sync of this process is noted meanwhile."""
        real = os.fsync

        def fsync(handle: int) -> None:
            real(handle)
            self._keep(os.fstat(handle), handle)

        with mock.patch.object(os, "fsync", fsync):
            yield

    def happen(self) -> None:
        """Take away what was not synced."""
        self._lose(self._root)

    def _keep(self, status: os.stat_result, place: Path | int) -> None:
        if os.path.isdir(place):  # noqa: PTH112  # a descriptor has no Path
            self._entries[status.st_ino] = set(os.listdir(place))  # noqa: PTH208
        else:
            self._files[status.st_ino] = (status.st_size, status.st_mtime_ns)

    def _lose(self, directory: Path) -> None:
        known = self._entries.get(directory.stat().st_ino, set())
        for path in directory.iterdir():
            if path.name.startswith(DATABASE) or path.name == "lock":
                continue
            if path.name not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_dir():
                self._lose(path)
            else:
                status = path.stat()
                if self._files.get(status.st_ino) != (status.st_size, status.st_mtime_ns):
                    os.truncate(path, status.st_size // 2)


@contextmanager
def ending(
    at: int | None, *, root: Path, how: str, kills: bool, syncs: bool = False
) -> Iterator[Injector]:
    """The process ends before its ``at``-th step: by ``kill``, or with the power (``how``).

    ``kills`` ends it for real; otherwise Dead is raised at that step and at all later ones.
    """
    with ExitStack() as stack:
        cut = PowerCut(root) if how == "power" else None
        last: Act = kill if kills else die

        def act(step: str) -> None:
            if cut is not None and len(injector.steps) == at:
                with mock.patch.object(injector, "_at", None):  # its own steps are not counted
                    cut.happen()
            last(step)

        injector = Injector(at, act, syncs=syncs)
        stack.enter_context(injector.installed())
        if cut is not None:
            stack.enter_context(cut.installed())  # around the counting: what ends there is no sync
        yield injector
