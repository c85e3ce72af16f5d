"""What the admin routes ask of adapter management. ``server.app`` plugs the real parts in.

Every method may block on a disk: routes call them on a worker thread. They raise the classes of
``adapters.errors`` that their docstrings name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from adapters.lineage import Chain, Dataset, Idempotency, NewStage, Page, Stage, StageEvent
from adapters.states import StageState


class Stages(Protocol):
    """Training runs, in order of creation."""

    def add(self, new: NewStage, idempotency: Idempotency | None = None) -> Stage:
        """Check everything, then queue the stage; durable when this returns.

        A repeated idempotency key with the same digest gives the first call's stage as it is now.
        Raises DataError, DatasetNotFound, ChainNotFound (a parent is named and there is no such
        chain), RevisionNotFound, ParentMoved, ShapeContradiction, MemoryExceeded,
        IdempotencyConflict or StorageFull, and then nothing is queued.
        """
        ...

    def get(self, stage_id: str) -> Stage:
        """The stage now; raises StageNotFound."""
        ...

    def list(
        self,
        *,
        chain: str | None = None,
        state: StageState | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page:
        """Newest first; ``after`` is the id of the last one seen. Raises StageNotFound for it."""
        ...

    def cancel(self, stage_id: str) -> Stage:
        """Ask for the end of a stage. A running one ends at its next piece.

        Raises StageNotFound, WrongState.
        """
        ...

    def pause(self, stage_id: str) -> Stage:
        """Ask for a checkpoint and a stop; raises StageNotFound, WrongState."""
        ...

    def resume(self, stage_id: str) -> Stage:
        """Queue a paused stage again; raises StageNotFound, WrongState."""
        ...

    def events(self, stage_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StageEvent]:
        """The stage's events with ids above ``after``, oldest first; raises StageNotFound."""
        ...

    def subscribe(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call ``notify(stage id)``, from any thread, after each new event; the result ends it."""
        ...


class Chains(Protocol):
    """Named lines of stages. ``revision`` is a stage number, a revision id or a label."""

    def list(self) -> Sequence[Chain]:
        """By name."""
        ...

    def get(self, chain: str) -> tuple[Chain, Sequence[Stage]]:
        """The chain and all its stages by number; raises ChainNotFound."""
        ...

    def delete(self, chain: str) -> None:
        """Delete the chain's revisions and end its name; its record stays.

        Raises ChainNotFound, RevisionProtected (a request uses one, or a stage is unfinished).
        """
        ...

    def delete_revision(self, chain: str, revision: str) -> Stage:
        """Delete its files; raises ChainNotFound, RevisionNotFound, RevisionProtected."""
        ...

    def rollback(self, chain: str, revision: str) -> Chain:
        """Move the head to an earlier (or later) revision; raises as ``delete_revision``."""
        ...

    def fork(self, chain: str, name: str, revision: str | None) -> Chain:
        """A new chain whose first stage has that revision (None: the head).

        Raises ChainNotFound, RevisionNotFound, ChainExists.
        """
        ...

    def prune(self, chain: str, *, keep_last: int) -> Sequence[Stage]:
        """Delete all but the newest ``keep_last`` revisions, and those that are protected.

        Returns the stages whose revision was deleted. Raises ChainNotFound.
        """
        ...

    def set_label(self, chain: str, label: str, revision: str) -> Chain:
        """Point ``label`` at a revision; raises ChainNotFound, RevisionNotFound."""
        ...

    def remove_label(self, chain: str, label: str) -> Chain:
        """Raises ChainNotFound, RevisionNotFound (no such label)."""
        ...


class Datasets(Protocol):
    """Training rows, stored by the hash of their bytes."""

    def incoming(self) -> Path:
        """A fresh file on the store's disk for an upload; ``add`` takes it over."""
        ...

    def add(self, file: Path, *, name: str | None = None) -> Dataset:
        """Check every line and keep the file; the same bytes twice are one data set.

        ``file`` is gone afterwards, also on an error. Raises DataError, StorageFull.
        """
        ...

    def get(self, dataset_id: str) -> Dataset:
        """Raises DatasetNotFound."""
        ...

    def list(self, *, after: str | None = None, limit: int = 20) -> Page:
        """Newest first; raises DatasetNotFound for ``after``."""
        ...

    def delete(self, dataset_id: str) -> None:
        """Raises DatasetNotFound, DatasetProtected."""
        ...


class Package(Protocol):
    """A revision as one file, which is the receiver's to remove."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What its user should know."""
        ...


class Archives(Protocol):
    """Whole chains, to and from one file."""

    def pack(self, chain: str, *, with_data: bool) -> Package:
        """The chain with its lineage, every revision that is there and, if asked, its data sets.

        Raises ChainNotFound, RevisionNotFound (it has none yet), DatasetNotFound (one was deleted
        meanwhile), AdapterFileError (one is damaged), StorageFull.
        """
        ...

    def incoming(self) -> Path:
        """A fresh directory on the store's disk for a chain file."""
        ...

    def bring_in(self, file: Path, name: str | None) -> tuple[Chain, Sequence[Stage]]:
        """Open a file that lies in such a directory, as ``name`` or under its own name.

        Everything is checked before anything is stored. Raises AdapterFileError, AdapterMismatch,
        ChainExists, StorageFull.
        """
        ...


class Loads(Protocol):
    """Adapters in the operator's directories, as chains that come and go while the server runs."""

    def load(self, chain: str, path: str, *, again: bool) -> Stage:
        """Begin ``chain`` with the adapter that a scan of those directories finds under ``path``.

        With ``again`` a chain that was loaded, and not trained since, is replaced. Raises
        AdapterPathNotFound, AlreadyLoaded, AdapterFileError, AdapterMismatch, RevisionProtected (a
        request uses what is to be replaced), StorageFull, and then nothing has changed.
        """
        ...

    def unload(self, chain: str) -> None:
        """Delete a chain that was loaded and not trained since; its record stays.

        Raises ChainNotFound, RevisionProtected for any other, and while a request uses it.
        """
        ...


class Transfers(Protocol):
    """Adapters from elsewhere, and revisions for elsewhere."""

    def incoming(self, chain: str) -> Path:
        """A fresh directory for the files of a new chain's adapter; raises ChainExists."""
        ...

    def bring_in(
        self,
        chain: str,
        file: Path,
        config: Path | None,
        *,
        scale: float | None,
        num_layers: int | None,
    ) -> Stage:
        """Begin ``chain`` with received files; both lie in one directory that ``incoming`` gave.

        Without ``config`` the file is an npz, and ``scale`` is the trainer's own (None: 20).
        Everything is checked before anything is stored. Raises AdapterFileError, AdapterMismatch,
        ChainExists, StorageFull.
        """
        ...

    def package(
        self,
        chain: str,
        revision: str | None,
        form: str,
        *,
        fold_scale: float | None,
        base_model: str | None,
    ) -> Package:
        """A revision (None: the head) as npz, or as a zip of an mlx-lm or PEFT directory.

        Raises ChainNotFound, RevisionNotFound, AdapterFileError, StorageFull.
        """
        ...
