"""Stage numbers: given at intake, rising by one, never given twice."""

from __future__ import annotations

import pytest

from adapters.errors import DatasetNotFound, RevisionNotFound, ShapeContradiction
from adapters.lineage import Origin
from adapters.states import StageState
from tests.adapters.store.rig import OTHER_BASE, Rig, asked, unused


def test_numbers_rise_by_one_from_intake_on(rig: Rig) -> None:
    """A queued stage has its number already; other chains count for themselves."""
    assert [rig.add("support").number for _ in range(3)] == [1, 2, 3]
    assert rig.add("other").number == 1


def test_a_number_is_not_given_again_after_failure_or_cancellation(rig: Rig) -> None:
    """What ended without a revision keeps its number."""
    assert rig.fail().number == 1
    assert rig.cancel().number == 2
    assert rig.grow().number == 3


def test_a_number_is_not_given_again_after_a_rollback(rig: Rig) -> None:
    """Moving the head back takes no stage away."""
    rig.grow()
    rig.grow()
    rig.store.chains.rollback("support", 1)
    assert rig.add().number == 3


@pytest.mark.parametrize("again", ["trained", "imported", "forked"])
def test_a_number_is_not_given_again_after_the_chain_was_deleted(rig: Rig, again: str) -> None:
    """A new chain of the same name goes on counting, however it begins."""
    rig.grow()
    rig.grow()
    rig.store.deletion.chain("support", unused)
    if again == "trained":
        stage = rig.grow()
    elif again == "imported":
        stage = rig.bring_in("support", 77.0)
    else:
        rig.grow("other")
        head = rig.store.chains.fork("other", "support", None).head
        assert head is not None
        stage = rig.store.chains.stage("support", head)
    assert (stage.number, stage.origin) == (3, Origin(again))
    assert rig.store.chains.get("support").head == 3


def test_a_stage_of_a_deleted_chain_stays_deleted_in_its_successor(rig: Rig) -> None:
    """``@1`` of the new chain never becomes something else."""
    rig.grow()
    rig.store.deletion.chain("support", unused)
    rig.grow()
    with pytest.raises(RevisionNotFound, match=r"support@1 was deleted on 2027-01-15"):
        rig.store.chains.resolve("support", 1)


def test_a_refused_intake_takes_no_number(rig: Rig) -> None:
    """A data set that is gone, and a chain of another base, leave nothing behind."""
    with pytest.raises(DatasetNotFound, match="upload it again"):
        rig.add(dataset="0" * 64)
    with pytest.raises(DatasetNotFound, match="0000 was deleted"):
        rig.add(validation="0" * 64)
    assert rig.store.chains.list() == []
    rig.add()
    store = rig.reopen(OTHER_BASE)
    with pytest.raises(ShapeContradiction, match="belongs to another base model"):
        rig.add()
    assert store.stages.list(chain=None, state=None, after=None, limit=9).data == []
    assert len(rig.reopen().chains.stages("support")) == 1


def test_numbers_survive_a_restart(rig: Rig) -> None:
    """The highest number is on the disk, not in the process."""
    rig.cancel()
    rig.reopen()
    assert rig.add().number == 2


def test_a_new_stage_is_queued_with_what_was_asked(rig: Rig) -> None:
    """The row holds the whole request, and the first event says queued."""
    request = rig.request(priority=3, samples=("Hello", "Bye"), validation=rig.dataset("other"))
    rig.clock.now += 5
    stage = rig.store.stages.add(request, asked())
    assert (stage.request, stage.state, stage.origin) == (
        request,
        StageState.QUEUED,
        Origin.TRAINED,
    )
    assert (stage.created_at, stage.started_at, stage.parent) == (rig.clock.now, None, None)
    [event] = rig.store.events.after(stage.id, 0, 10)
    assert (event.kind, event.data) == ("state", {"state": "queued"})
