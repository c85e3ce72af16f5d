"""Trained stages as fine-tuning jobs: the questions that OpenAI's API has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.errors import StageNotFound
from adapters.lineage import Page, Stage, StageEvent
from adapters.store.database import Database
from adapters.store.records import event_of, stage_of
from adapters.store.unavailable import Unavailable

_NEWEST = 1 << 62


class Jobs:
    """The trained stages of one base in one data directory. May be used from any thread."""

    def __init__(self, database: Database, unavailable: Unavailable, base: str) -> None:
        self._database = database
        self._unavailable = unavailable
        self._base = base

    def get(self, stage_id: str, *, param: str = "fine_tuning_job_id") -> Stage:
        """One trained stage; raises StageNotFound, also for one that was not trained.

        ``param`` is the field that named it.
        """
        row = self._database.one(
            "SELECT * FROM stages WHERE id = ? AND base = ? AND origin = 'trained'",
            (stage_id, self._base),
        )
        if row is None:
            raise StageNotFound(
                f"There is no fine-tuning job ftjob-{stage_id}; GET /v1/fine_tuning/jobs lists "
                "them.",
                param=param,
            )
        return stage_of(row, self._unavailable.reasons)

    def list(self, *, metadata: Mapping[str, str] | None, after: str | None, limit: int) -> Page:
        """Newest first, after the stage ``after``; raises StageNotFound for it.

        With every pair of ``metadata``; None asks for those without any metadata.
        """
        seq = _NEWEST
        if after is not None:
            self.get(after, param="after")
            row = self._database.one("SELECT seq FROM stages WHERE id = ?", (after,))
            seq = 0 if row is None else row["seq"]
        wanted = "AND json_extract(request, '$.job.metadata') IS NULL "
        values: list[object] = []
        if metadata is not None:
            pair = (
                "AND EXISTS (SELECT 1 FROM json_each(request, '$.job.metadata') "
                "WHERE key = ? AND value = ?) "
            )
            wanted = pair * len(metadata)
            values = [each for item in metadata.items() for each in item]
        rows = self._database.all(
            "SELECT * FROM stages WHERE seq < ? AND base = ? AND origin = 'trained' "
            f"{wanted}ORDER BY seq DESC LIMIT ?",
            (seq, self._base, *values, limit + 1),
        )
        reasons = self._unavailable.reasons
        return Page([stage_of(row, reasons) for row in rows[:limit]], len(rows) > limit)

    def checkpoints(self, stage_id: str) -> Sequence[Stage]:
        """The stages whose revisions hold what a job had learned, by falling step; those that were
        deleted are left out. The job's own, where it succeeded, is the first.

        The others began a chain each; their ``record`` has ``step``, ``loss`` and
        ``validation_loss``. Raises StageNotFound.
        """
        own = self.get(stage_id)
        rows = self._database.all(
            # The first of each step: a copy that came in a chain file under another name is none.
            "SELECT *, min(seq) FROM stages WHERE json_extract(record, '$.checkpoint_of') = ? "
            "AND base = ? AND origin = 'forked' AND revision_deleted_at IS NULL "
            "GROUP BY json_extract(record, '$.step') ORDER BY json_extract(record, '$.step') DESC",
            (stage_id, self._base),
        )
        there = own.revision is not None and own.revision_deleted_at is None
        reasons = self._unavailable.reasons
        return [*([own] if there else []), *(stage_of(row, reasons) for row in rows)]

    def events(self, stage_id: str, *, before: int | None, limit: int) -> Page:
        """Newest first, those with ids below ``before``; raises StageNotFound."""
        self.get(stage_id)
        rows = self._database.all(
            "SELECT * FROM events WHERE stage = ? AND id < ? ORDER BY id DESC LIMIT ?",
            (stage_id, _NEWEST if before is None else before, limit + 1),
        )
        found: Sequence[StageEvent] = [event_of(row) for row in rows[:limit]]
        return Page(found, len(rows) > limit)
