"""What happened, in order, and who is told."""

from __future__ import annotations

import logging

import pytest

from adapters.errors import ClaimLost
from adapters.states import StageState
from tests.adapters.store.rig import FAULT, Rig


def test_events_have_rising_ids_over_all_stages(rig: Rig) -> None:
    """Each stage sees its own, oldest first, after the one it has seen."""
    for chain in ("a", "b"):
        rig.add(chain)
    one, two = rig.claim(), rig.claim()
    events = rig.store.events
    events.add(one.id, 1, "step", {"step": 1, "loss": 2.5})
    rig.clock.now += 1
    events.add(two.id, 1, "warning", {"message": "slow"})
    events.add(one.id, 1, "step", {"step": 2, "loss": 2.25})
    found = events.after(one.id, 0, 99)
    assert [event.kind for event in found] == ["state", "state", "step", "step"]
    assert [event.id for event in found] == [1, 3, 5, 7]
    assert [event.at for event in found][2:] == [rig.clock.now - 1, rig.clock.now]
    assert [dict(event.data) for event in events.after(one.id, 3, 1)] == [{"step": 1, "loss": 2.5}]
    assert events.after(one.id, 7, 99) == []
    assert events.after("nobody", 0, 99) == []


def test_a_worker_that_lost_its_claim_tells_nothing(rig: Rig) -> None:
    """Neither with an old fence nor once the stage is nobody's; nobody is called either."""
    rig.add()
    old = rig.claim()
    rig.reopen()
    calls: list[str] = []
    rig.store.events.subscribe(calls.append)
    with pytest.raises(ClaimLost):
        rig.store.events.add(old.id, old.fence, "step", {"step": 3})
    assert calls == []
    rig.claim()
    before = rig.store.events.after(old.id, 0, 99)
    with pytest.raises(ClaimLost):
        rig.store.events.add(old.id, old.fence, "step", {"step": 3})
    assert rig.store.events.after(old.id, 0, 99) == before
    assert calls == [old.id]  # the claim's own


def test_every_change_of_state_is_an_event(rig: Rig) -> None:
    """From the intake to the end, also what a restart gave back."""
    rig.add()
    stage = rig.claim()
    rig.reopen()
    stage = rig.claim()
    rig.store.stages.transition(stage.id, StageState.PAUSED, fence=stage.fence)
    rig.store.stages.transition(stage.id, StageState.QUEUED)
    rig.publish(rig.claim())
    found = [event.data["state"] for event in rig.store.events.after(stage.id, 0, 99)]
    before = ["queued", "running"] * 2
    assert found == [*before, "paused", "queued", "running", "evaluating", "succeeded"]
    imported = rig.bring_in("other", 9.0)
    assert [event.data for event in rig.store.events.after(imported.id, 0, 9)] == [
        {"state": "succeeded"}
    ]


def test_a_subscriber_is_told_after_the_commit(rig: Rig) -> None:
    """What it then reads is there; once it has ended its subscription it is told nothing."""
    seen: list[tuple[str, int]] = []

    def notify(stage_id: str) -> None:
        seen.append((stage_id, len(rig.store.events.after(stage_id, 0, 99))))

    unsubscribe = rig.store.events.subscribe(notify)
    stage = rig.add()
    rig.claim()
    rig.store.stages.fail(stage.id, 1, FAULT)
    imported = rig.bring_in("other", 1.0)
    assert seen == [(stage.id, 1), (stage.id, 2), (stage.id, 3), (imported.id, 1)]
    unsubscribe()
    unsubscribe()
    rig.add()
    assert len(seen) == 4


def test_a_subscriber_that_fails_harms_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The stage is queued, the others are told, and the log says what went wrong."""
    heard: list[str] = []

    def fail(_stage_id: str) -> None:
        raise RuntimeError("no")

    rig.store.events.subscribe(fail)
    rig.store.events.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        stage = rig.add()
    assert heard == [stage.id]
    assert f"a subscriber failed on an event of stage {stage.id}" in caplog.text


def test_a_refused_change_is_no_event(rig: Rig) -> None:
    """An event is written in the transaction of what it tells."""
    stage = rig.cancel()
    before = rig.store.events.after(stage.id, 0, 99)
    with pytest.raises(Exception, match="cannot become queued"):
        rig.store.stages.transition(stage.id, StageState.QUEUED)
    assert rig.store.events.after(stage.id, 0, 99) == before


def test_stages_are_listed_newest_first_by_chain_and_state(rig: Rig) -> None:
    """In pages; ``after`` is the last one of the page before."""
    a1, b1, a2 = rig.add("a"), rig.add("b"), rig.add("a")
    rig.store.stages.transition(a1.id, StageState.CANCELLED)
    stages = rig.store.stages

    def ids(after: str | None = None, limit: int = 9, **filters: object) -> tuple[list[str], bool]:
        given: dict[str, object] = {"chain": None, "state": None, **filters}
        page = stages.list(after=after, limit=limit, **given)  # type: ignore[arg-type]
        return [stage.id for stage in page.data], page.has_more

    assert ids() == ([a2.id, b1.id, a1.id], False)
    assert ids(limit=2) == ([a2.id, b1.id], True)
    assert ids(after=b1.id, limit=2) == ([a1.id], False)
    assert ids(chain="a") == ([a2.id, a1.id], False)
    assert ids(state=StageState.QUEUED) == ([a2.id, b1.id], False)
    assert ids(chain="a", state=StageState.CANCELLED) == ([a1.id], False)
    assert ids(chain="nobody") == ([], False)
