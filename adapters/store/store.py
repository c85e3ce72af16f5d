"""One data directory, opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adapters.errors import RevisionNotFound, StoreError
from adapters.lineage import Stage
from adapters.store.archive import Archive
from adapters.store.chains import Chains
from adapters.store.checkpoints import Checkpoints
from adapters.store.claiming import claim, give_back_all
from adapters.store.database import Database
from adapters.store.datasets import Datasets
from adapters.store.deletion import Deletion
from adapters.store.events import Events
from adapters.store.files import Files
from adapters.store.jobs import Jobs
from adapters.store.layout import Layout
from adapters.store.lock import DirectoryLock
from adapters.store.placing import Placing
from adapters.store.results import Results
from adapters.store.stages import Stages
from adapters.store.unavailable import Unavailable

log = logging.getLogger(__name__)


class Store:
    """Everything that outlives the process. Every method may be called from any thread.

    The parts are public: ``chains``, ``stages``, ``jobs``, ``checkpoints``, ``datasets``,
    ``files``, ``deletion``, ``archive``, ``events`` and ``unavailable``. Any of them raises
    StorageFull where the disk is full, StoreError where the data directory cannot be used.
    """

    def __init__(self, data_dir: Path, *, clock: Callable[[], float], base: str) -> None:
        """Open or make ``data_dir`` for the base with this fingerprint, and recover.

        Attempts that a stopped process left are given back to the queue; files that no row knows
        are removed. Raises StoreError where another process owns the directory, or it cannot be
        used.
        """
        self._layout = Layout(data_dir)
        with _usable(data_dir):
            self._layout.make()
        self._clock = clock
        self._base = base
        with ExitStack() as opened:
            with _usable(data_dir):
                self._lock = DirectoryLock(data_dir)
            opened.callback(self._lock.release)
            self._layout.check_database()
            self._database = Database(self._layout.database)
            opened.callback(self._database.close)
            self._make_parts()
            self._recover()
            opened.pop_all()

    def _make_parts(self) -> None:
        database, layout, clock, base = self._database, self._layout, self._clock, self._base
        self.events = Events(database, clock)
        self.checkpoints = Checkpoints(database, layout)
        self.unavailable = Unavailable()
        self.stages = Stages(database, self.checkpoints, self.events, clock, self.unavailable, base)
        self.chains = Chains(
            database, layout, self.stages, self.events, self.unavailable, clock, base
        )
        self.datasets = Datasets(database, layout, clock)
        self.results = Results(database)
        self.files = Files(database, layout, self.datasets, self.results, clock, base)
        self.jobs = Jobs(database, self.unavailable, base)
        self.deletion = Deletion(database, layout, self.chains, clock)
        placing = Placing(layout, self.unavailable, clock)
        self.archive = Archive(database, layout, self.chains, self.datasets, self.events, placing)

    @property
    def base(self) -> str:
        """The fingerprint of the base that it was opened for."""
        return self._base

    def close(self) -> None:
        """Let another process have the directory."""
        self._database.close()
        self._lock.release()

    def claim(self) -> Stage | None:
        """The next stage to run, now running under a new fencing token; None where none waits."""
        return claim(self._database, self.events, self._clock, self._base)

    def revision_path(self, revision: str) -> Path:
        """The directory of a revision; raises RevisionNotFound."""
        if self._database.one("SELECT 1 FROM revisions WHERE id = ?", (revision,)) is None:
            raise RevisionNotFound(f"There is no revision {revision}; it was deleted.")
        return self._layout.revisions / revision

    def has_revision(self, revision: str) -> bool:
        """Whether some stage still has it."""
        return self._database.one("SELECT 1 FROM revisions WHERE id = ?", (revision,)) is not None

    def revision_count(self) -> int:
        """How many revisions there are."""
        row = self._database.one("SELECT count(*) AS n FROM revisions")
        return 0 if row is None else int(row["n"])

    def revision_temp(self) -> Path:
        """A path for an adapter directory that is being written; nothing is there."""
        return self._layout.fresh(self._layout.revisions)

    def incoming(self) -> Path:
        """A path for a file that is being received; nothing is there."""
        return self._layout.fresh(self._layout.incoming)

    def _recover(self) -> None:
        given_back = give_back_all(self._database, self.events)
        for stage_id in given_back:
            log.info("stage %s was interrupted; it continues from its last checkpoint", stage_id)
        rows = self._database.all("SELECT id, nbytes FROM revisions")
        revisions = {row["id"]: row["nbytes"] for row in rows}
        self.unavailable.look(self._layout.revisions, revisions.items())
        for revision, why in self.unavailable.reasons.items():
            log.error("revision %s cannot be served, others are. %s", revision[:12], why)
        self.files.expire()
        sets = self._database.all("SELECT id FROM datasets")
        self._layout.sweep(
            revisions=revisions,
            checkpoints=self.checkpoints.names(),
            sets=[row["id"] for row in sets],
        )


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The data directory {directory} cannot be used ({error.strerror}: {error.filename}). "
            "Give one that you may write to, with --data-dir."
        ) from error
