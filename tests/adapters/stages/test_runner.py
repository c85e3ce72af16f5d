"""The runner outlives whatever goes wrong, and no request to a stage is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import DeviceGone, NonFinite, StorageFull, StoreError
from adapters.lineage import Fault, Stage, StageRequest, TrainSettings
from adapters.stages import runner as module
from adapters.stages.asks import Ask, left_in
from adapters.stages.runner import Runner
from adapters.stages.service import StageService
from adapters.states import StageState
from adapters.store import Store

Asked = Callable[[], Ask | None]
Work = Callable[[Stage, Asked], StageState]

S = StageState


class Bench:
    """A runner whose stages are ``work``; real in everything else."""

    def __init__(self, store: Store, patch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.work: Work = lambda stage, _asked: self.leave(stage, S.CANCELLED)
        patch.setattr(module, "StageRun", self._made)
        host: Any = type("Host", (), {"store": store})
        self.runner = Runner(host, retry_s=0.01)
        self.service = StageService(store, None, self.runner)  # type: ignore[arg-type]
        self._heard = threading.Condition()
        store.events.subscribe(self._hear)
        file = store.incoming()
        file.write_text("{}\n")
        self._dataset = store.datasets.add(file, rows=1, name=None).id

    def _made(self, _host: Any, stage: Stage, asked: Asked) -> Any:
        return type("Run", (), {"run": lambda _: self.work(stage, asked)})()

    def _hear(self, _stage: str) -> None:
        with self._heard:
            self._heard.notify_all()

    def add(self, chain: str = "support") -> Stage:
        """A queued stage."""
        settings = TrainSettings(iters=1)
        stage = self.store.stages.add(StageRequest(chain, self._dataset, settings), None)
        self.runner.wake()
        return stage

    def leave(self, stage: Stage, state: StageState) -> StageState:
        """As a stage leaves itself."""
        self.store.stages.transition(stage.id, state, fence=stage.fence)
        return state

    def reached(self, stage: Stage, *path: StageState) -> None:
        """Wait until the stage has gone through exactly these states."""

        def gone() -> list[str]:
            events = self.store.events.after(stage.id, 0, 99)
            return [event.data["state"] for event in events if event.kind == "state"]

        with self._heard:
            assert self._heard.wait_for(lambda: gone() == list(path), 10), gone()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Not started: a test first says what its stages do."""
    store = Store(tmp_path, clock=lambda: 1.0, base="b" * 64)
    made = Bench(store, monkeypatch)
    yield made
    made.runner.stop()
    store.close()


def failing(times: int, call: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """``call``, after so many failures."""
    left = [error] * times

    def guarded(*arguments: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return call(*arguments, **named)

    return guarded


@pytest.mark.parametrize("error", [StorageFull("no room"), RuntimeError("a defect")])
def test_a_claim_that_fails_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A full disk, or a defect, does not end the thread that every later stage needs."""
    monkeypatch.setattr(bench.store, "claim", failing(2, bench.store.claim, error))
    stage = bench.add()
    bench.runner.start()
    bench.reached(stage, S.QUEUED, S.RUNNING, S.CANCELLED)


@pytest.mark.parametrize("error", [StorageFull("no room"), RuntimeError("a defect")])
def test_a_failure_is_recorded_once_the_store_takes_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Else the stage would count as running, and its chain's next one would wait for ever."""

    def diverge(stage: Stage, _asked: Asked) -> StageState:
        if stage.number == 1:
            raise NonFinite("diverged")
        return bench.leave(stage, S.CANCELLED)

    bench.work = diverge
    monkeypatch.setattr(bench.store.stages, "fail", failing(2, bench.store.stages.fail, error))
    first, second = bench.add(), bench.add()
    bench.runner.start()
    bench.reached(first, S.QUEUED, S.RUNNING, S.FAILED)
    bench.reached(second, S.QUEUED, S.RUNNING, S.CANCELLED)


def test_a_defect_fails_its_stage_alone(bench: Bench) -> None:
    """The error says that it is the server's."""

    def break_once(stage: Stage, _asked: Asked) -> StageState:
        if stage.number == 1:
            raise ZeroDivisionError("oh")
        return bench.leave(stage, S.CANCELLED)

    bench.work = break_once
    first, second = bench.add(), bench.add()
    bench.runner.start()
    bench.reached(second, S.QUEUED, S.RUNNING, S.CANCELLED)
    error = bench.store.stages.get(first.id).error
    assert error is not None
    assert error.code == "internal_error"
    assert "ZeroDivisionError: oh" in error.message


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError(13, "Permission denied", "/data/x"), "store_error", "denied: '/data/x'"),
        (StorageFull("The disk is full."), "storage_full", "The disk is full. The stage is paused"),
        (StoreError("Another program writes."), "store_error", "Another program writes. The stage"),
    ],
)
def test_a_stage_that_the_disk_stops_is_paused_with_the_reason(
    bench: Bench, error: Exception, code: str, says: str
) -> None:
    """Nothing is wrong with it: it says how to resume it, and does not carry the error on."""

    def write(stage: Stage, _asked: Asked) -> StageState:
        if stage.fence == 1:
            bench.store.stages.transition(stage.id, S.EVALUATING, fence=stage.fence)
            raise error
        return bench.leave(stage, S.CANCELLED)

    bench.work = write
    stage = bench.add()
    bench.runner.start()
    bench.reached(stage, S.QUEUED, S.RUNNING, S.EVALUATING, S.PAUSED)
    found = bench.store.stages.get(stage.id).error
    assert found is not None
    assert found.code == code
    assert says in found.message
    assert found.message.endswith(f"chainlora stage resume {stage.id}")
    assert bench.service.resume(stage.id).error is None
    bench.reached(
        *(stage, S.QUEUED, S.RUNNING, S.EVALUATING, S.PAUSED, S.QUEUED, S.RUNNING, S.CANCELLED)
    )


def test_a_stage_whose_pause_finds_no_room_says_why_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as running until there is room; whoever looks is told all the same."""
    seen: list[Stage] = []
    real = bench.store.stages.suspend

    def suspend(stage_id: str, fence: int, fault: Fault) -> Stage:
        seen.append(bench.service.get(stage_id))
        seen.extend(bench.service.list(chain="support").data)
        if len(seen) < 4:
            raise StorageFull("no room")
        return real(stage_id, fence, fault)

    def fill(_stage: Stage, _asked: Asked) -> StageState:
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(bench.store.stages, "suspend", suspend)
    bench.work = fill
    stage = bench.add()
    bench.runner.start()
    bench.reached(stage, S.QUEUED, S.RUNNING, S.PAUSED)
    assert [each.state for each in seen] == [S.RUNNING] * 4
    assert all(each.error and "The disk is full." in each.error.message for each in seen)
    bench.runner.stop()
    assert bench.runner.fault_of(stage.id) is None


def test_a_stage_that_the_disk_stops_is_cancelled_where_it_was_to_be(bench: Bench) -> None:
    """It is not left waiting for a resume that nobody will ask for."""

    def write(stage: Stage, _asked: Asked) -> StageState:
        bench.service.cancel(stage.id)
        raise StorageFull("no room")

    bench.work = write
    stage = bench.add()
    bench.runner.start()
    bench.reached(stage, S.QUEUED, S.RUNNING, S.PAUSED, S.CANCELLED)
    assert bench.store.stages.get(stage.id).error is None


def late(bench: Bench, *calls: Callable[[str], object]) -> Work:
    """A stage that is asked to pause and does; ``calls`` come after it looked for the last time."""

    def work(stage: Stage, asked: Asked) -> StageState:
        if stage.fence > 1:
            return bench.leave(stage, S.CANCELLED)
        bench.service.pause(stage.id)
        state = left_in(asked())
        for call in calls[:-1]:
            call(stage.id)
        bench.leave(stage, state)
        calls[-1](stage.id)
        return state

    return work


def test_a_cancellation_that_comes_while_a_stage_pauses_is_heard(bench: Bench) -> None:
    """Before the stage has left, and after."""
    for place in (0, 1):
        calls: list[Callable[[str], object]] = [str, str]
        calls[place] = bench.service.cancel
        bench.work = late(bench, *calls)
        stage = bench.add(f"chain-{place}")
        if place == 0:
            bench.runner.start()
        bench.reached(stage, S.QUEUED, S.RUNNING, S.PAUSED, S.CANCELLED)


def test_a_pause_that_is_taken_back_while_a_stage_pauses_is_none(bench: Bench) -> None:
    """It is queued again, and goes on."""
    bench.work = late(bench, bench.service.resume, str)
    stage = bench.add()
    bench.runner.start()
    bench.reached(stage, S.QUEUED, S.RUNNING, S.PAUSED, S.QUEUED, S.RUNNING, S.CANCELLED)


def test_a_resumed_stage_is_not_paused_by_the_pause_before(bench: Bench) -> None:
    """The pause took effect; what came after it stands."""
    bench.work = late(bench, bench.service.resume)
    stage = bench.add()
    bench.runner.start()
    bench.reached(stage, S.QUEUED, S.RUNNING, S.PAUSED, S.QUEUED, S.RUNNING, S.CANCELLED)


def test_a_stage_whose_device_is_gone_is_given_back_unless_it_was_cancelled(bench: Bench) -> None:
    """Interrupted is not failed, and a cancellation outlives the device."""

    def cancel_and_lose(stage: Stage, _asked: Asked) -> StageState:
        bench.service.cancel(stage.id)
        raise DeviceGone("gone")

    bench.work = cancel_and_lose
    first, second = bench.add(), bench.add()
    bench.runner.start()
    bench.reached(first, S.QUEUED, S.RUNNING, S.QUEUED, S.CANCELLED)
    assert bench.store.stages.get(second.id).state is S.QUEUED
