"""What the routes of fine-tuning jobs ask of adapter management, beside its stages and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from adapters.lineage import Page, Stage


class Jobs(Protocol):
    """Trained stages, as jobs are asked for; every method may block on a disk."""

    def get(self, stage_id: str, *, param: str = "fine_tuning_job_id") -> Stage:
        """Raises StageNotFound with the field that named it, also for a stage not trained here."""
        ...

    def list(self, *, metadata: Mapping[str, str] | None, after: str | None, limit: int) -> Page:
        """Newest first, those with every pair of ``metadata``; None: those without any.

        Raises StageNotFound for ``after``.
        """
        ...

    def checkpoints(self, stage_id: str) -> Sequence[Stage]:
        """What a job had learned, by falling step: its own stage, then the forks of its epochs,
        whose ``record`` has ``step``, ``loss`` and ``validation_loss``. Raises StageNotFound.
        """
        ...

    def events(self, stage_id: str, *, before: int | None, limit: int) -> Page:
        """Newest first, those with ids below ``before``; raises StageNotFound."""
        ...
