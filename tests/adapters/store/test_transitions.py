"""What may follow what, refused by the code and by the database itself."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable

import pytest

from adapters.errors import AdapterError, StageNotFound, WrongState
from adapters.states import TRANSITIONS, StageState
from tests.adapters.store.rig import FAULT, Rig

FINAL = [state for state in StageState if state.is_final]


def in_state(rig: Rig, state: StageState) -> str:
    """The id of a stage that was put into a state past the rules."""
    stage = rig.add(f"chain-{state}")
    rig.sql("DROP TRIGGER only_legal_transitions")
    rig.sql(
        "UPDATE stages SET state = ?, fence = 1, error = ?, revision = 'r' WHERE id = ?",
        state,
        '{"code":"c","message":"m"}',
        stage.id,
    )
    return stage.id


@pytest.mark.parametrize("source", list(StageState))
def test_the_code_refuses_what_may_not_follow(rig: Rig, source: StageState) -> None:
    """With the right fence too; the state stays."""
    stage_id = in_state(rig, source)
    fence = 1 if source.is_claimed else None
    for target in set(StageState) - TRANSITIONS[source]:
        with pytest.raises(WrongState, match=f"is {source} and cannot become {target} now"):
            rig.store.stages.transition(stage_id, target, fence=fence)
    assert rig.store.stages.get(stage_id).state is source


def test_the_database_refuses_what_may_not_follow(rig: Rig) -> None:
    """A trigger and the table of transitions hold every pair, whoever writes."""
    stage = rig.add()
    trigger = rig.store._database.one("SELECT sql FROM sqlite_master WHERE type = 'trigger'")
    assert trigger is not None
    for source, target in itertools.permutations(StageState, 2):
        rig.sql("DROP TRIGGER only_legal_transitions")
        rig.sql(
            "UPDATE stages SET state = ?, error = '{}', revision = 'r' WHERE id = ?",
            source,
            stage.id,
        )
        rig.sql(trigger["sql"])
        write = ("UPDATE stages SET state = ? WHERE id = ?", target, stage.id)
        if target in TRANSITIONS[source]:
            rig.sql(*write)
        else:
            with pytest.raises(sqlite3.IntegrityError, match="illegal transition"):
                rig.sql(*write)


@pytest.mark.parametrize("state", [StageState.RUNNING, StageState.EVALUATING])
def test_a_claimed_stage_moves_for_its_claim_alone(rig: Rig, state: StageState) -> None:
    """Without the fence nobody else ends it."""
    stage_id = in_state(rig, state)
    with pytest.raises(WrongState, match=f"is {state}"):
        rig.store.stages.transition(stage_id, StageState.CANCELLED)


def test_a_stage_runs_by_being_claimed_and_not_otherwise(rig: Rig) -> None:
    """A transition gives no fence, so it cannot begin an attempt."""
    with pytest.raises(WrongState, match="cannot become running"):
        rig.store.stages.transition(rig.add().id, StageState.RUNNING)


def test_an_unknown_stage_is_not_found(rig: Rig) -> None:
    """By its id, and as the place where a list goes on."""
    with pytest.raises(StageNotFound, match="no stage 'nobody'"):
        rig.store.stages.transition("nobody", StageState.QUEUED)
    with pytest.raises(StageNotFound):
        rig.store.stages.list(chain=None, state=None, after="nobody", limit=1)


def test_a_failed_stage_carries_its_reason(rig: Rig) -> None:
    """In its row and in its last event."""
    stage = rig.fail()
    assert (stage.error, stage.finished_at) == (FAULT, rig.clock.now)
    event = rig.store.events.after(stage.id, 0, 99)[-1]
    assert event.data == {
        "state": "failed",
        "error": {"code": "non_finite", "message": "The loss is NaN."},
    }


def test_a_paused_stage_is_queued_again(rig: Rig) -> None:
    """It is not finished meanwhile."""
    rig.add()
    stage = rig.claim()
    paused = rig.store.stages.transition(stage.id, StageState.PAUSED, fence=stage.fence)
    assert (paused.state, paused.finished_at) == (StageState.PAUSED, None)
    rig.store.stages.transition(stage.id, StageState.QUEUED)
    assert rig.claim().fence == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stages SET state = 'running'",
        "DELETE FROM stages",
        "UPDATE stages SET state = 'lost'",
        "UPDATE stages SET number = 0",
        "UPDATE stages SET number = 1",
        "UPDATE stages SET request = NULL",
        "UPDATE stages SET state = 'failed'",
        "UPDATE stages SET revision_deleted_at = 1.0",
        "UPDATE chains SET head = 9",
        "UPDATE chains SET last_number = 'many'",
        "INSERT INTO labels VALUES ('support', 'stable', 9)",
        "INSERT INTO checkpoints VALUES ('nobody', 1, 'file')",
        "INSERT INTO events (stage, at, kind, data) VALUES ('nobody', 1.0, 'state', '{}')",
        "INSERT INTO revisions VALUES ('short', '{}', 1, 1.0)",
        "UPDATE datasets SET id = 'short'",
    ],
)
def test_the_database_holds_its_rules_itself(rig: Rig, statement: str) -> None:
    """One claimed stage a chain, lineage that stays, heads and labels that exist, and the rest."""
    rig.add()
    rig.add()
    with pytest.raises(sqlite3.IntegrityError):
        rig.sql(statement)


def test_a_deleted_chain_cannot_have_a_head(rig: Rig) -> None:
    """Not even past the code."""
    rig.grow()
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        rig.sql("UPDATE chains SET deleted_at = 1.0")


def test_a_cancellation_and_a_claim_that_meet_have_one_winner(rig: Rig) -> None:
    """Either the stage runs and the cancellation is refused, or it never runs."""
    outcomes: set[tuple[bool, bool]] = set()
    for _ in range(20):
        stage = rig.add()
        cancelled, claimed = both(
            lambda stage=stage: rig.store.stages.transition(stage.id, StageState.CANCELLED),  # type: ignore[misc]
            rig.store.claim,
        )
        found = rig.store.stages.get(stage.id)
        outcomes.add((cancelled is not None, claimed is not None))
        assert (cancelled is None) != (claimed is None)
        assert found.state is (StageState.RUNNING if claimed else StageState.CANCELLED)
        if claimed:
            rig.store.stages.fail(stage.id, found.fence, FAULT)
    assert outcomes <= {(True, False), (False, True)}


def both(first: Callable[[], object], second: Callable[[], object]) -> tuple[object, object]:
    """The results of two calls that begin together; None for one that was refused."""
    found: dict[int, object] = {}
    gate = threading.Barrier(2)

    def call(place: int, action: Callable[[], object]) -> None:
        gate.wait()
        try:
            found[place] = action()
        except AdapterError:
            found[place] = None

    threads = [threading.Thread(target=call, args=each) for each in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0], found[1]
