"""What a running stage lets others see: progress in its row, and events."""

from __future__ import annotations

import logging
from typing import Any

from adapters.lineage import Progress, Stage
from adapters.store import Store
from adapters.training.trainer import StepReport

log = logging.getLogger(__name__)


class Journal:
    """Writes progress and events of one claimed stage."""

    def __init__(self, store: Store, stage: Stage) -> None:
        self._store = store
        self._stage = stage
        self._seconds = 0.0
        self._steps = 0
        self.trained_tokens = 0
        self.loss = stage.progress.loss

    def begin(self, trained_tokens: int) -> None:
        """So many tokens were trained up to the step that this attempt begins with.

        The row may know of more: of steps after the checkpoint, which are done once more.
        """
        self.trained_tokens = trained_tokens

    def step(self, report: StepReport) -> None:
        """One optimizer step is done. The time left is that of the steps of this attempt."""
        self.loss = report.loss
        self.trained_tokens += report.tokens
        self._seconds += report.seconds
        self._steps += 1
        rate = report.tokens / report.seconds if report.seconds else None
        left_s = self._seconds / self._steps * (report.steps - report.step)
        progress = Progress(
            report.step, report.steps, self.trained_tokens, rate, left_s, report.loss
        )
        self._store.stages.record(self._stage.id, self._stage.fence, progress=progress)
        self.tell(
            "step",
            step=report.step,
            steps=report.steps,
            loss=report.loss,
            learning_rate=report.learning_rate,
            grad_norm=report.grad_norm,
            tokens=report.tokens,
            tokens_per_s=rate,
            left_s=left_s,
        )

    def warn(self, message: str) -> None:
        """Something is not as it was asked for, and the stage goes on."""
        log.warning("stage %s: %s", self._stage.id, message)
        self.tell("warning", message=message)

    def tell(self, kind: str, **data: Any) -> None:
        """Add an event; ``adapters.lineage.StageEvent`` lists the kinds and their data."""
        self._store.events.add(self._stage.id, self._stage.fence, kind, data)
