"""Stages that do what a test scripts, from any thread: ``happen``, ``reach`` and ``step``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from adapters.errors import (
    DatasetNotFound,
    IdempotencyConflict,
    WrongState,
)
from adapters.lineage import (
    Chain,
    Fault,
    Idempotency,
    NewStage,
    Origin,
    Page,
    Progress,
    Stage,
    StageEvent,
    StageRequest,
)
from adapters.states import TRANSITIONS, StageState
from tests.administration.state import BASE, SHAPE, State


class FakeStages:
    """The port Stages."""

    def __init__(self, state: State) -> None:
        self._state = state

    def add(self, new: NewStage, idempotency: Idempotency | None = None) -> Stage:
        """As the port; ``state.refusals`` are raised one by one."""
        state = self._state
        with state.lock:
            if state.refusals:
                raise state.refusals.pop(0)
            known = None if idempotency is None else (idempotency.route, idempotency.key)
            if known in state.keys:
                digest, stage_id = state.keys[known]
                assert idempotency is not None
                if digest != idempotency.digest:
                    raise IdempotencyConflict("The key was used before with another request.")
                return state.stages[stage_id]
            if new.dataset is not None and new.dataset not in state.datasets:
                raise DatasetNotFound(f"There is no data set {new.dataset!r}.", param="dataset")
            state.asked.append(new)
            stage = self._queued(new)
            if known is not None and idempotency is not None:
                state.keys[known] = (idempotency.digest, stage.id)
        self.happen(stage.id, "state", state="queued")
        return stage

    def _queued(self, new: NewStage) -> Stage:
        state = self._state
        number = len(state.of(new.chain)) + 1
        state.chains.setdefault(new.chain, Chain(new.chain, BASE, state.now))
        stage = Stage(
            id=f"stage_{next(state.ids):04d}",
            chain=new.chain,
            number=number,
            base=BASE,
            origin=Origin.TRAINED,
            state=StageState.QUEUED,
            created_at=state.now,
            request=StageRequest(
                chain=new.chain,
                dataset=new.dataset or "inline",
                settings=new.settings,
                validation=new.validation,
                parent=new.parent,
                lora=new.lora,
                samples=new.samples,
                priority=new.priority,
                job=new.job,
            ),
        )
        state.stages[stage.id] = stage
        return stage

    def get(self, stage_id: str) -> Stage:
        """As the port."""
        with self._state.lock:
            return self._state.stage(stage_id)

    def list(
        self,
        *,
        chain: str | None = None,
        state: StageState | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page:
        """As the port."""
        with self._state.lock:
            rows = [*reversed(self._state.stages.values())]
            if after is not None:
                rows = rows[rows.index(self._state.stage(after)) + 1 :]
            rows = [
                row for row in rows if chain in (None, row.chain) and state in (None, row.state)
            ]
            return Page(rows[:limit], has_more=len(rows) > limit)

    def cancel(self, stage_id: str) -> Stage:
        """As the port, at once."""
        return self._move(stage_id, StageState.CANCELLED)

    def pause(self, stage_id: str) -> Stage:
        """As the port, at once."""
        return self._move(stage_id, StageState.PAUSED)

    def resume(self, stage_id: str) -> Stage:
        """As the port."""
        return self._move(stage_id, StageState.QUEUED)

    def events(self, stage_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[StageEvent]:
        """As the port."""
        with self._state.lock:
            self._state.stage(stage_id)
            rows = [row for row in self._state.events if row.stage == stage_id and row.id > after]
            return rows[:limit]

    def subscribe(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """As the port."""
        with self._state.changed:
            self._state.readers.append(notify)
            self._state.changed.notify_all()

        def unsubscribe() -> None:
            with self._state.changed:
                self._state.readers.remove(notify)
                self._state.changed.notify_all()

        return unsubscribe

    def happen(self, stage_id: str, kind: str, **data: Any) -> StageEvent:
        """An event of the stage."""
        state = self._state
        with state.lock:
            event = StageEvent(next(state.ids), stage_id, state.now, kind, data)
            state.events.append(event)
            readers = [*state.readers]
        for notify in readers:
            notify(stage_id)
        return event

    def reach(self, stage_id: str, to: StageState, *, error: Fault | None = None) -> Stage:
        """The stage goes to a state, and tells it; a success publishes and moves the head."""
        state = self._state
        with state.lock:
            stage = replace(state.stage(stage_id), state=to, error=error)
            if to is StageState.RUNNING:
                stage = replace(stage, shape=SHAPE, started_at=state.now)
            if to.is_final:
                stage = replace(stage, finished_at=state.now)
            if to is StageState.SUCCEEDED:
                stage = replace(stage, revision=f"sha256-{stage.chain}-{stage.number}")
                chain = replace(
                    state.chain(stage.chain), head=stage.number, head_revision=stage.revision
                )
                state.chains[stage.chain] = chain
            state.stages[stage_id] = stage
        self.happen(stage_id, "state", state=to.value)
        return stage

    def step(self, stage_id: str, step: int, steps: int, **data: Any) -> None:
        """One step of training."""
        with self._state.lock:
            stage = self._state.stage(stage_id)
            progress = Progress(step, steps, step * 100, 1234.5, float(steps - step))
            self._state.stages[stage_id] = replace(stage, progress=progress)
        fields = {"step": step, "steps": steps, "loss": 2.0 - step / steps, **data}
        self.happen(stage_id, "step", tokens_per_s=1234.5, left_s=float(steps - step), **fields)

    def succeed(self, stage_id: str) -> Stage:
        """Run to a published revision at once."""
        for state in (StageState.RUNNING, StageState.EVALUATING):
            self.reach(stage_id, state)
        return self.reach(stage_id, StageState.SUCCEEDED)

    def wait_for_readers(self, count: int) -> None:
        """Until ``count`` streams are subscribed."""
        with self._state.changed:
            assert self._state.changed.wait_for(lambda: len(self._state.readers) == count, 20)

    def _move(self, stage_id: str, to: StageState) -> Stage:
        stage = self.get(stage_id)
        if to not in TRANSITIONS[stage.state]:
            raise WrongState(f"The stage is {stage.state.value}; it cannot become {to.value}.")
        return self.reach(stage_id, to)
