"""What may be deleted, and its deletion: the row first, the files after."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from adapters.errors import RevisionProtected
from adapters.lineage import Stage
from adapters.states import StageState
from adapters.store.chains import Chains, Pin
from adapters.store.database import Database
from adapters.store.layout import Layout

InUse = Callable[[str], bool]
"""Whether a request uses a revision. Asked within a Guard."""

Guard = Callable[[], AbstractContextManager[None]]
"""Nobody begins to use a revision meanwhile. Whoever serves waits for it, so it is held from the
question to the commit alone: not while another thread places or removes files."""

_UNFINISHED = tuple(state.value for state in StageState if not state.is_final)


class Deletion:
    """Deletes revisions and chains; the lineage record stays. May be used from any thread.

    Protected are heads, labels, revisions in use, and parents of unfinished stages.
    """

    def __init__(
        self, database: Database, layout: Layout, chains: Chains, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._layout = layout
        self._chains = chains
        self._clock = clock

    def revision(self, chain: str, pin: Pin, in_use: InUse, guard: Guard = nullcontext) -> Stage:
        """Delete the revision of one stage; raises RevisionProtected with the reason."""
        with self._layout.placing:
            stage = self._chains.resolve(chain, pin)
            with self._deciding(guard) as connection:
                if reason := self._protection(connection, stage, in_use):
                    raise RevisionProtected(
                        f"{chain}@{stage.number} cannot be deleted: {reason}", param="revision"
                    )
                self._mark(connection, [stage])
            self._drop_files([stage])
        return self._chains.stage(chain, stage.number)

    def prune(
        self, chain: str, keep_last: int, in_use: InUse, guard: Guard = nullcontext
    ) -> Sequence[Stage]:
        """Delete all but the newest ``keep_last`` revisions and those that are protected."""
        with self._layout.placing:
            present = _present(self._chains.stages(chain))
            old = present[: max(len(present) - keep_last, 0)]
            with self._deciding(guard) as connection:
                gone = [each for each in old if not self._protection(connection, each, in_use)]
                self._mark(connection, gone)
            self._drop_files(gone)
        return [self._chains.stage(chain, each.number) for each in gone]

    def chain(self, name: str, in_use: InUse, guard: Guard = nullcontext) -> Sequence[Stage]:
        """Delete every revision and end the name; the stages whose revision went.

        Raises RevisionProtected where a request uses one or a stage is unfinished.
        """
        with self._layout.placing:
            # Looked at inside the transaction: a stage may be added at any moment.
            with self._deciding(guard) as connection:
                stages = self._chains.stages(name)
                gone = _present(stages)
                if reason := _keeps_chain(stages, in_use):
                    raise RevisionProtected(
                        f"The chain {name!r} cannot be deleted: {reason}", param="chain"
                    )
                self._mark(connection, gone)
                connection.execute("DELETE FROM labels WHERE chain = ?", (name,))
                connection.execute(
                    "UPDATE chains SET head = NULL, deleted_at = ? WHERE name = ?",
                    (self._clock(), name),
                )
            self._drop_files(gone)
        return gone

    @contextmanager
    def _deciding(self, guard: Guard) -> Iterator[sqlite3.Connection]:
        """A transaction, in ``guard`` until it is committed."""
        with ExitStack() as until_committed, self._database.write() as connection:
            until_committed.enter_context(guard())
            yield connection

    def _protection(
        self, connection: sqlite3.Connection, stage: Stage, in_use: InUse
    ) -> str | None:
        """Why a stage's revision must stay, None where it may go."""
        chain = self._chains.get(stage.chain)
        if chain.head == stage.number:
            return "it is the chain's head. Roll the chain back to another revision first."
        labels = sorted(label for label, number in chain.labels.items() if number == stage.number)
        if labels:
            return f"it has the label {labels[0]!r}. Take the label away first."
        if in_use(str(stage.revision)):
            return "a request is using it. Try again when it has ended."
        marks = ", ".join("?" * len(_UNFINISHED))
        child = connection.execute(
            f"SELECT id FROM stages WHERE chain = ? AND state IN ({marks}) "
            "AND ? IN (parent, json_extract(request, '$.parent'))",
            (stage.chain, *_UNFINISHED, stage.revision),
        ).fetchone()
        if child is not None:
            return f"the unfinished stage {child['id']} starts from it. Cancel that stage first."
        return None

    def _mark(self, connection: sqlite3.Connection, stages: Sequence[Stage]) -> None:
        """The commit point: nobody finds these revisions under these stages any more."""
        for stage in stages:
            connection.execute(
                "UPDATE stages SET revision_deleted_at = ? WHERE id = ?",
                (self._clock(), stage.id),
            )
            connection.execute(
                "DELETE FROM revisions WHERE id = ? AND NOT EXISTS (SELECT 1 FROM stages "
                "WHERE revision = ? AND revision_deleted_at IS NULL)",
                (stage.revision, stage.revision),
            )

    def _drop_files(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            row = self._database.one("SELECT 1 FROM revisions WHERE id = ?", (stage.revision,))
            if row is None:
                self._layout.remove(self._layout.revisions / str(stage.revision))


def _keeps_chain(stages: Sequence[Stage], in_use: InUse) -> str | None:
    """Why a chain with these stages must stay, None where it may go."""
    for stage in stages:
        if not stage.state.is_final:
            return f"its stage {stage.number} is {stage.state}. Cancel it first."
    for stage in _present(stages):
        if in_use(str(stage.revision)):
            return f"a request is using {stage.chain}@{stage.number}. Try again when it has ended."
    return None


def _present(stages: Sequence[Stage]) -> list[Stage]:
    return [
        stage
        for stage in stages
        if stage.revision is not None and stage.revision_deleted_at is None
    ]
