"""What the admin routes can do with stages, chains and data sets, on the real store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from adapters.errors import WrongState
from adapters.lineage import Chain, Dataset, Idempotency, NewStage, Page, Stage, StageEvent
from adapters.pins import Pins
from adapters.stages.asks import Ask
from adapters.stages.intake import Intake, pin_of
from adapters.stages.runner import Runner
from adapters.states import StageState
from adapters.store import Store

Forget = Callable[[str], None]
"""Tells the engine that a revision is gone."""


class StageService:
    """Implements ``server.api.admin.ports.Stages``."""

    def __init__(self, store: Store, intake: Intake, runner: Runner) -> None:
        self._store = store
        self._intake = intake
        self._runner = runner

    def add(self, new: NewStage, idempotency: Idempotency | None = None) -> Stage:
        """Check everything, then queue the stage and wake the trainer."""
        stage = self._intake.add(new, idempotency)
        self._runner.wake()
        return stage

    def get(self, stage_id: str) -> Stage:
        """The stage now."""
        return self._seen(self._store.stages.get(stage_id))

    def list(
        self,
        *,
        chain: str | None = None,
        state: StageState | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page:
        """Newest first."""
        page = self._store.stages.list(chain=chain, state=state, after=after, limit=limit)
        return replace(page, data=[self._seen(stage) for stage in page.data])

    def cancel(self, stage_id: str) -> Stage:
        """End a stage now where it waits, at its next piece where it runs."""
        return self._end_early(stage_id, Ask.CANCEL, StageState.CANCELLED)

    def pause(self, stage_id: str) -> Stage:
        """Stop a stage with a checkpoint."""
        return self._end_early(stage_id, Ask.PAUSE, StageState.PAUSED)

    def resume(self, stage_id: str) -> Stage:
        """Queue a paused stage again, or take back a pause that has not taken effect."""
        if self._runner.withdraw_pause(stage_id):
            return self._store.stages.get(stage_id)
        stage = self._store.stages.get(stage_id)
        if stage.state is not StageState.PAUSED:
            raise WrongState(
                f"Stage {stage_id} is {stage.state}; only a paused one can be resumed.",
                param="stage",
            )
        stage = self._store.stages.transition(stage_id, StageState.QUEUED)
        self._runner.wake()
        return stage

    def events(self, stage_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StageEvent]:
        """The stage's events with ids above ``after``, oldest first."""
        self._store.stages.get(stage_id)
        return self._store.events.after(stage_id, after, limit)

    def subscribe(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call ``notify`` after each new event."""
        return self._store.events.subscribe(notify)

    def _seen(self, stage: Stage) -> Stage:
        fault = self._runner.fault_of(stage.id) if stage.state.is_claimed else None
        return stage if fault is None else replace(stage, error=fault)

    def _end_early(self, stage_id: str, ask: Ask, state: StageState) -> Stage:
        # A stage that moves between two of these lines is looked at once more.
        while True:
            claimed = self._store.stages.get(stage_id).state.is_claimed
            if claimed and self._runner.ask(stage_id, ask):
                return self._store.stages.get(stage_id)
            try:
                return self._store.stages.transition(stage_id, state)
            except WrongState:
                if claimed or not self._store.stages.get(stage_id).state.is_claimed:
                    raise


class ChainService:
    """Implements ``server.api.admin.ports.Chains``."""

    def __init__(self, store: Store, pins: Pins, forget: Forget) -> None:
        self._store = store
        self._pins = pins
        self._forget = forget

    def list(self) -> Sequence[Chain]:
        """By name."""
        return self._store.chains.list()

    def get(self, chain: str) -> tuple[Chain, Sequence[Stage]]:
        """The chain and all its stages."""
        return self._store.chains.get(chain), self._store.chains.stages(chain)

    def delete(self, chain: str) -> None:
        """Delete the chain's revisions and end its name."""
        stages = self._store.deletion.chain(chain, self._pins.in_use, self._pins.guard)
        self._forget_all(stages)

    def delete_revision(self, chain: str, revision: str) -> Stage:
        """Delete one revision's files."""
        stage = self._store.deletion.revision(
            chain, pin_of(revision), self._pins.in_use, self._pins.guard
        )
        self._forget_all([stage])
        return stage

    def rollback(self, chain: str, revision: str) -> Chain:
        """Move the head."""
        return self._store.chains.rollback(chain, pin_of(revision))

    def fork(self, chain: str, name: str, revision: str | None) -> Chain:
        """A new chain whose first stage has that revision."""
        return self._store.chains.fork(chain, name, None if revision is None else pin_of(revision))

    def prune(self, chain: str, *, keep_last: int) -> Sequence[Stage]:
        """Delete all but the newest revisions and those that are protected."""
        stages = self._store.deletion.prune(chain, keep_last, self._pins.in_use, self._pins.guard)
        self._forget_all(stages)
        return stages

    def set_label(self, chain: str, label: str, revision: str) -> Chain:
        """Point a label at a revision."""
        return self._store.chains.set_label(chain, label, pin_of(revision))

    def remove_label(self, chain: str, label: str) -> Chain:
        """Take a label away."""
        return self._store.chains.remove_label(chain, label)

    def _forget_all(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            if stage.revision is not None and not self._store.has_revision(stage.revision):
                self._forget(stage.revision)


class DatasetService:
    """Implements ``server.api.admin.ports.Datasets``."""

    def __init__(self, store: Store, intake: Intake) -> None:
        self._store = store
        self._intake = intake

    def incoming(self) -> Path:
        """A fresh file for an upload."""
        return self._store.incoming()

    def add(self, file: Path, *, name: str | None = None) -> Dataset:
        """Check every line and keep the file."""
        return self._intake.add_dataset(file, name=name)

    def get(self, dataset_id: str) -> Dataset:
        """One data set."""
        return self._store.datasets.get(dataset_id)

    def list(self, *, after: str | None = None, limit: int = 20) -> Page:
        """Newest first."""
        return self._store.datasets.list(after=after, limit=limit)

    def delete(self, dataset_id: str) -> None:
        """Delete one that no unfinished stage needs."""
        self._store.datasets.delete(dataset_id)
