"""Which stage runs next, from which parent, and who may write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import ClaimLost
from adapters.lineage import LoraRequest, Progress
from adapters.states import StageState
from tests.adapters.store.rig import FAULT, OTHER_BASE, SHAPE, Rig


def order(rig: Rig) -> list[str]:
    """Claim and end everything; ``chain@number`` in the order of the claims."""
    found = []
    while (stage := rig.store.claim()) is not None:
        found.append(f"{stage.chain}@{stage.number}")
        rig.store.stages.fail(stage.id, stage.fence, FAULT)
    return found


def test_stages_run_in_the_order_of_their_arrival(rig: Rig) -> None:
    """Chains of one priority share the trainer fairly."""
    for chain in ("a", "b", "a", "c"):
        rig.add(chain)
    assert order(rig) == ["a@1", "b@1", "a@2", "c@1"]


def test_a_higher_priority_goes_first_and_never_past_its_own_chain(rig: Rig) -> None:
    """An urgent second stage waits for the chain's first."""
    rig.add("slow")
    rig.add("slow", priority=9)
    rig.add("b", priority=1)
    assert order(rig) == ["b@1", "slow@1", "slow@2"]


def test_one_stage_of_a_chain_runs_at_a_time(rig: Rig) -> None:
    """Also while it is evaluated; stages of other chains may run beside it."""
    rig.add("a")
    rig.add("a")
    first = rig.claim()
    assert rig.store.claim() is None
    rig.store.stages.transition(first.id, StageState.EVALUATING, fence=first.fence)
    assert rig.store.claim() is None
    rig.add("b")
    assert rig.claim().chain == "b"
    rig.store.stages.fail(first.id, first.fence, FAULT)
    assert rig.claim().number == 2


def test_a_stage_is_claimed_under_a_new_fence_each_time(rig: Rig) -> None:
    """The time of the first start stays."""
    rig.add()
    first = rig.claim()
    assert (first.state, first.fence, first.started_at) == (StageState.RUNNING, 1, rig.clock.now)
    rig.store.stages.transition(first.id, StageState.QUEUED, fence=1)
    rig.clock.now += 60
    second = rig.claim()
    assert (second.fence, second.started_at) == (2, first.started_at)


def test_a_stage_of_another_base_waits_for_that_base(rig: Rig) -> None:
    """Only what fits the base in memory is claimed."""
    rig.add()
    assert rig.reopen(OTHER_BASE).claim() is None
    assert rig.reopen().claim() is not None


def test_the_parent_is_the_head_at_the_start(rig: Rig) -> None:
    """A stage that was queued early continues what was published meanwhile."""
    rig.add()
    waiting = rig.add()
    assert rig.claim().parent is None
    first = rig.publish(rig.store.stages.list(chain=None, state=None, after=None, limit=2).data[1])
    claimed = rig.claim()
    assert (claimed.id, claimed.parent) == (waiting.id, first.revision)


def test_a_stage_whose_named_parent_is_the_head_starts_from_it(rig: Rig) -> None:
    """Compare and swap, where nothing has moved."""
    first = rig.grow()
    rig.add(parent=first.revision)
    assert rig.claim().parent == first.revision


@pytest.mark.parametrize("head", ["stage 3", "nothing"])
def test_a_stage_whose_named_parent_is_not_the_head_fails_and_the_next_is_tried(
    rig: Rig, head: str
) -> None:
    """Compare and swap: parent_moved says what the head is now, in the row and in an event."""
    first = rig.grow()
    moved = rig.add("support" if head == "stage 3" else "new", parent=first.revision)
    if head == "stage 3":
        rig.sql("UPDATE stages SET state = 'paused' WHERE id = ?", moved.id)
        rig.grow()
        rig.store.stages.transition(moved.id, StageState.QUEUED)
    rig.add("other")
    heard: list[str] = []
    rig.store.events.subscribe(heard.append)
    claimed = rig.claim()
    assert claimed.chain == "other"
    assert heard == [moved.id, claimed.id]
    failed = rig.store.stages.get(moved.id)
    assert failed.state is StageState.FAILED
    assert failed.error is not None
    assert failed.error.code == "parent_moved"
    assert f"is {head} by now" in failed.error.message
    assert failed.finished_at == rig.clock.now
    event = rig.store.events.after(moved.id, 0, 99)[-1]
    assert event.data["error"]["code"] == "parent_moved"


def test_a_stage_that_goes_on_keeps_its_parent(rig: Rig) -> None:
    """The parent is compared at the first start alone: what is half trained stays on it."""
    rig.grow()
    second = rig.grow()
    rig.add()
    running = rig.claim()
    rig.store.stages.transition(running.id, StageState.QUEUED, fence=running.fence)
    rig.store.chains.rollback("support", 1)
    assert rig.claim().parent == second.revision


def test_a_paused_stage_that_has_started_keeps_its_place(rig: Rig) -> None:
    """Overtaken, it would end beside the head, which would not hold what it learned."""
    rig.add()
    running = rig.claim()
    rig.store.stages.transition(running.id, StageState.PAUSED, fence=running.fence)
    rig.add()
    assert rig.store.claim() is None
    rig.store.stages.transition(running.id, StageState.QUEUED)
    assert rig.claim().number == 1


def test_a_stage_that_was_paused_before_it_started_is_passed_by(rig: Rig) -> None:
    """It takes the head of the moment when it starts, so nothing is lost."""
    first = rig.add()
    rig.store.stages.transition(first.id, StageState.PAUSED)
    rig.add()
    assert rig.claim().number == 2


def test_every_write_of_a_claim_that_is_out_of_date_is_refused(rig: Rig) -> None:
    """A worker that was taken for dead changes nothing any more."""
    rig.add()
    old = rig.claim()
    rig.store.stages.transition(old.id, StageState.QUEUED, fence=old.fence)
    stages = rig.store.stages
    for claimed in (False, True):
        if claimed:
            rig.claim()
        for write in (
            lambda: stages.record(old.id, old.fence, progress=Progress(1, 2)),
            lambda: stages.fail(old.id, old.fence, FAULT),
            lambda: stages.transition(old.id, StageState.EVALUATING, fence=old.fence),
            lambda: rig.checkpoint(old, 1),
        ):
            with pytest.raises(ClaimLost, match="not held by this claim"):
                write()
    assert stages.get(old.id).progress == Progress()
    assert rig.store.checkpoints.newest_first(old.id) == []


def test_a_lost_claim_publishes_nothing(rig: Rig) -> None:
    """No row, no file, no head: as if the worker had ended earlier."""
    rig.add()
    old = rig.claim()
    rig.store.stages.transition(old.id, StageState.QUEUED, fence=old.fence)
    new = rig.claim()
    rig.store.stages.transition(new.id, StageState.EVALUATING, fence=new.fence)
    rig.store.stages.transition(new.id, StageState.QUEUED, fence=new.fence)
    newest = rig.claim()
    with pytest.raises(ClaimLost):
        rig.store.chains.publish(
            old.id,
            old.fence,
            "1" * 64,
            _written(rig),
            shape=SHAPE,
            manifest={},
            metrics={},
        )
    assert rig.revisions() == set()
    assert rig.store.chains.get("support").head is None
    assert rig.publish(newest).state is StageState.SUCCEEDED


def _written(rig: Rig) -> Path:
    directory = rig.store.revision_temp()
    directory.mkdir()
    (directory / "file").write_text("x")
    return directory


def test_a_claimed_stage_writes_down_what_it_finds_out(rig: Rig) -> None:
    """Progress, shape and record come back as they were given."""
    rig.add(lora=LoraRequest(keys=("mlp.up_proj",)))
    stage = rig.claim()
    progress = Progress(1, 6, 120, 55.5, None)
    rig.store.stages.record(stage.id, stage.fence, progress=progress)
    rig.store.stages.record(stage.id, stage.fence, record={"plan": "p"}, shape=SHAPE)
    found = rig.store.stages.get(stage.id)
    assert (found.progress, found.record, found.shape) == (progress, {"plan": "p"}, SHAPE)
    assert found.request is not None
    assert found.request.lora == LoraRequest(keys=("mlp.up_proj",))
