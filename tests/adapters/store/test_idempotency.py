"""One key, one route, one stage, for a day."""

from __future__ import annotations

import threading

import pytest

from adapters.errors import IdempotencyConflict
from adapters.lineage import Stage
from tests.adapters.store.rig import Rig, asked

DAY_S = 24 * 3600


def test_the_same_request_twice_is_one_stage(rig: Rig) -> None:
    """The second answer is the first one's stage as it is now."""
    request = rig.request()
    first = rig.store.stages.add(request, asked())
    rig.claim()
    again = rig.store.stages.add(request, asked())
    assert again.id == first.id
    assert again.state.value == "running"
    assert len(rig.store.chains.stages("support")) == 1


def test_the_same_key_with_another_body_is_refused(rig: Rig) -> None:
    """Nothing is queued."""
    rig.store.stages.add(rig.request(), asked("d1"))
    with pytest.raises(IdempotencyConflict, match="another body"):
        rig.store.stages.add(rig.request(), asked("d2"))
    assert len(rig.store.chains.stages("support")) == 1


def test_keys_of_two_routes_do_not_meet(rig: Rig) -> None:
    """A client may use one key on each."""
    stages = [
        rig.store.stages.add(rig.request(), asked(route=route)).number for route in ("/a", "/b")
    ]
    assert stages == [1, 2]


def test_requests_without_a_key_are_never_the_same(rig: Rig) -> None:
    """Nothing is guessed from equal bodies."""
    request = rig.request()
    assert [rig.store.stages.add(request, None).number for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("later_s", "number"), [(DAY_S - 1, 1), (DAY_S, 2)])
def test_a_key_is_remembered_for_a_day(rig: Rig, later_s: float, number: int) -> None:
    """Afterwards it may stand for another request, also another body."""
    request = rig.request()
    rig.store.stages.add(request, asked())
    rig.clock.now += later_s
    rig.reopen()
    assert rig.store.stages.add(request, asked()).number == number
    rig.clock.now += DAY_S
    assert rig.store.stages.add(request, asked("d2")).number == number + 1
    assert rig.store.stages.add(request, asked("d2")).number == number + 1


def test_a_key_that_nobody_used_finds_nothing(rig: Rig) -> None:
    """Looking does not reserve it."""
    assert rig.store.stages.find_idempotent(asked()) is None
    assert rig.store.stages.find_idempotent(asked("d2")) is None


def test_the_same_request_from_many_threads_at_once_is_one_stage(rig: Rig) -> None:
    """Looking a key up and taking it is one transaction."""
    request = rig.request()
    gate = threading.Barrier(4)
    found: list[Stage] = []

    def add() -> None:
        gate.wait()
        found.append(rig.store.stages.add(request, asked()))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({stage.id for stage in found}) == 1
    assert len(rig.store.chains.stages("support")) == 1


def test_keys_of_yesterday_are_not_kept(rig: Rig) -> None:
    """They would pile up for ever; those of the last 24 hours stay."""
    for hours, key in ((0, "old"), (20, "new"), (10, "newest")):
        rig.clock.now += hours * 3600
        rig.store.stages.add(rig.request(), asked(key=key))
    rows = rig.store._database.all("SELECT key FROM idempotency ORDER BY created_at")
    assert [row["key"] for row in rows] == ["new", "newest"]
