"""Checkpoints: the file first, the row second; the last two are kept until the stage ends."""

from __future__ import annotations

import pytest

from adapters.errors import ClaimLost
from adapters.states import StageState
from tests.adapters.store.rig import FAULT, Rig


def test_the_last_two_checkpoints_are_kept(rig: Rig) -> None:
    """The newest is the one to go on from."""
    rig.add()
    stage = rig.claim()
    assert rig.store.checkpoints.newest_first(stage.id) == []
    files = [rig.checkpoint(stage, step) for step in (2, 4, 6)]
    assert rig.store.checkpoints.newest_first(stage.id)[0] == (6, files[2])
    assert [file.exists() for file in files] == [False, True, True]


def test_what_is_to_be_kept_is_kept_beside_the_last_two(rig: Rig) -> None:
    """Until the stage ends; the newest is still the one to go on from."""
    rig.add()
    stage = rig.claim()
    files = [rig.checkpoint(stage, step, kept=(2,)) for step in (2, 4, 6, 8)]
    assert [file.exists() for file in files] == [True, False, True, True]
    assert [step for step, _ in rig.store.checkpoints.newest_first(stage.id)] == [8, 6, 2]


def test_a_step_that_is_kept_again_counts_once(rig: Rig) -> None:
    """A stage that is paused right after a checkpoint writes it a second time."""
    rig.add()
    stage = rig.claim()
    for step in (2, 4, 4):
        rig.checkpoint(stage, step)
    assert rig.store.checkpoints.names() == {stage.id: {"step-2.safetensors", "step-4.safetensors"}}


def test_a_checkpoint_that_is_discarded_leaves_the_one_before(rig: Rig) -> None:
    """Row and file; by whoever holds the stage alone."""
    rig.add()
    stage = rig.claim()
    older, newer = (rig.checkpoint(stage, step) for step in (2, 4))
    with pytest.raises(ClaimLost):
        rig.store.checkpoints.discard(stage.id, stage.fence + 1, 4)
    assert newer.exists()
    rig.store.checkpoints.discard(stage.id, stage.fence, 4)
    assert rig.store.checkpoints.newest_first(stage.id) == [(2, older)]
    assert not newer.exists()


@pytest.mark.parametrize("end", ["failed", "cancelled", "succeeded"])
def test_the_checkpoints_of_a_stage_that_has_ended_are_gone(rig: Rig, end: str) -> None:
    """Rows and files, whichever way it ended."""
    rig.add()
    stage = rig.claim()
    rig.checkpoint(stage, 2)
    if end == "failed":
        rig.store.stages.fail(stage.id, stage.fence, FAULT)
    elif end == "cancelled":
        rig.store.stages.transition(stage.id, StageState.CANCELLED, fence=stage.fence)
    else:
        rig.publish(stage)
    assert rig.store.checkpoints.newest_first(stage.id) == []
    assert list((rig.directory / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("state", [StageState.PAUSED, StageState.QUEUED])
def test_a_stage_that_goes_on_later_keeps_its_checkpoints(rig: Rig, state: StageState) -> None:
    """Also over a restart."""
    rig.add()
    stage = rig.claim()
    file = rig.checkpoint(stage, 2)
    rig.store.stages.transition(stage.id, state, fence=stage.fence)
    assert rig.reopen().checkpoints.newest_first(stage.id)[0] == (2, file)
    assert file.read_text() == "2"


def test_the_rows_end_with_the_stage_in_one_transaction(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the files are removed leaves files alone, and the next start removes them."""
    rig.add()
    stage = rig.claim()
    file = rig.checkpoint(stage, 2)
    monkeypatch.setattr(rig.store.checkpoints, "drop", lambda _stage: None)
    rig.store.stages.fail(stage.id, stage.fence, FAULT)
    assert file.exists()
    assert rig.store.checkpoints.names() == {}
    rig.reopen()
    assert not file.parent.exists()
