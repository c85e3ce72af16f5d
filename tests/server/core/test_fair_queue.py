"""The rules by which waiting rows start."""

from __future__ import annotations

from collections import Counter

from server.core.fair_queue import FAIR_EVERY, Candidate, FairQueue, Room, Standing
from tests.server.core.fair_rig import ONE, WIDE, Rig


def test_rows_of_one_flow_start_in_the_order_in_which_they_came() -> None:
    """First come, first served within a flow."""
    rig = Rig()
    rig.push("a", "b", "c")
    assert rig.take() == ["a", "b", "c"]


def test_rows_of_one_flow_keep_their_order_over_its_revisions() -> None:
    """A chain's pins and its head are one flow."""
    queue = FairQueue(lambda _: Standing.READY)
    for name, revision in (("a", "old"), ("b", "new"), ("c", "old")):
        queue.push(Candidate(name, "chain", 10, revision))
    started = [each.request_id for _ in range(3) for each in queue.take(ONE)]
    assert started == ["a", "b", "c"]


def test_a_flood_on_one_flow_delays_another_by_one_row_at_most() -> None:
    """A flow that has been granted nothing goes before the flood's second row."""
    rig = Rig()
    rig.flood("flood", 200)
    rig.push("quiet", flow="quiet")
    assert "quiet" in rig.take()[:2]


def test_idling_earns_no_credit() -> None:
    """A flow that comes back shares from now on; it does not catch up on the past."""
    rig = Rig()
    rig.flood("a", 100)
    rig.flows(50)
    rig.flood("b", 50)
    first = Counter(rig.flows(20))
    assert abs(first["a"] - first["b"]) <= 1


def test_waiting_for_an_adapter_earns_one_row_and_no_more() -> None:
    """A chain whose adapter was read while others ran does not then run alone until it is even."""
    rig = Rig(cold={"late"})
    rig.flood("late", 50)
    rig.flood("a", 100)
    assert rig.flows(50) == ["a"] * 50
    rig.move("late", Standing.READY)
    first = Counter(rig.flows(20))
    assert first["late"] <= 11


def test_a_row_that_is_not_ready_never_blocks_one_that_is() -> None:
    """A missing adapter is passed over and keeps its place."""
    rig = Rig(cold={"cold"})
    rig.push("cold", flow="cold")
    rig.push("warm", flow="warm")
    assert rig.take() == ["warm"]
    rig.move("cold", Standing.READY)
    assert rig.take() == ["cold"]


def test_an_adapter_that_was_evicted_keeps_its_rows_waiting_and_is_sent_for_again() -> None:
    """Readiness may come and go."""
    rig = Rig()
    rig.push("a", flow="a")
    rig.move("a", Standing.COLD)
    assert (rig.take(), rig.queue.has_ready, rig.queue.next_cold()) == ([], False, "a")
    rig.move("a", Standing.COMING)
    assert rig.queue.next_cold() is None


def test_the_adapter_of_the_row_that_is_next_is_sent_for_first() -> None:
    """By priority, then fairness, then arrival."""
    rig = Rig(cold={"a", "b", "c"})
    rig.push("a", flow="a")
    rig.push("b", flow="b")
    rig.push("c", flow="c", priority=-1)
    order = []
    while (revision := rig.queue.next_cold()) is not None:
        order.append(revision)
        rig.move(revision, Standing.COMING)
    assert order == ["c", "a", "b"]
    assert rig.queue.in_order(["b", "nobody", "a", "c"]) == ["c", "a", "b"]


def start(rig: Rig, crowded: str, batch: int = 3, room: Room = ONE) -> list[str]:
    """Start what may start while the revision ``crowded`` waits for room."""
    return rig.take(room, crowded=(crowded,), batch=batch)


def test_a_flood_gets_one_batch_ahead_of_a_row_that_it_crowds_out() -> None:
    """Then nothing of it starts, so that its adapter runs dry and makes room."""
    rig = Rig(coming={"crowded"})
    rig.flood("flood", 20)
    rig.push("crowded", flow="crowded")
    assert rig.queue.kept(["crowded"], batch=3) == {"flood"}
    started = [start(rig, "crowded") for _ in range(8)]
    assert started == [["flood0"], ["flood1"], ["flood2"], ["flood3"], [], [], [], []]
    assert rig.queue.kept(["crowded"], batch=3) == frozenset()
    rig.move("crowded", Standing.READY)
    assert rig.take(ONE) == ["crowded"]


def test_more_urgent_rows_get_some_batches_ahead_of_a_row_that_they_crowd_out() -> None:
    """It does not starve, either."""
    rig = Rig(coming={"crowded"})
    rig.flood("flood", 100, priority=-1)
    rig.push("crowded", flow="crowded")
    started = [name for _ in range(100) for name in start(rig, "crowded", batch=2)]
    assert len(started) == 2 * FAIR_EVERY + 1


def test_the_base_goes_on_while_an_adapter_waits_for_room() -> None:
    """It takes none."""
    rig = Rig(coming={"crowded"})
    rig.push(*(str(number) for number in range(20)))
    rig.push("crowded", flow="crowded")
    assert len(start(rig, "crowded", room=WIDE)) == 20


def test_a_row_that_is_crowded_out_is_not_overtaken_by_its_own_flow() -> None:
    """A chain's older revision must run dry before its new head gets the room."""
    queue = FairQueue(lambda each: Standing.COMING if each == "new" else Standing.READY)
    for name, revision in (("before", "old"), ("head", "new"), ("pinned", "older")):
        queue.push(Candidate(name, "chain", 10, revision))
    assert [each.request_id for each in queue.take(WIDE, ["new"], batch=3)] == ["before"]
    assert len(queue) == 2


def test_nothing_is_held_back_where_nothing_waits_for_room() -> None:
    """A row whose adapter is still being read blocks nobody."""
    rig = Rig(coming={"cold"})
    rig.push("cold", flow="cold")
    rig.flood("warm", 9)
    assert len(rig.take()) == 9


def test_a_large_row_is_not_starved_by_smaller_ones_behind_it() -> None:
    """The first row that does not fit ends the round."""
    rig = Rig()
    rig.push("large", expected=90)
    rig.push("small", expected=10)
    busy = Room(rows=5, kv_tokens=100, rows_running=1, longest=10)
    assert rig.take(busy) == []


def test_an_empty_batch_takes_any_row() -> None:
    """A row longer than the budget still runs, alone."""
    rig = Rig()
    rig.push("huge", expected=10**6)
    assert rig.take(Room(1, 100, 0, 0)) == ["huge"]


def test_a_batch_costs_its_rows_times_the_longest() -> None:
    """Rows are padded to the longest one."""
    room = Room(rows=9, kv_tokens=100, rows_running=1, longest=40)
    assert room.takes(50)
    assert not room.takes(51)
    assert not room.after(50).takes(1)


def test_a_preempted_row_returns_to_the_head_of_its_flow() -> None:
    """Its turn was before every row that waits."""
    rig = Rig()
    rig.push("later")
    rig.queue.push_front(Candidate("preempted", "", 10))
    assert rig.take() == ["preempted", "later"]


def test_a_removed_row_never_starts_and_removing_it_again_is_no_error() -> None:
    """Cancelling is idempotent."""
    rig = Rig()
    rig.push("a")
    assert rig.queue.remove("a")
    assert not rig.queue.remove("a")
    assert len(rig.queue) == 0
    assert rig.take() == []


def test_the_rows_of_a_revision_are_found_in_every_flow() -> None:
    """Two chains may share a revision, and a fault of it concerns both."""
    queue = FairQueue(lambda _: Standing.READY)
    for name, flow in (("a", "one"), ("b", "two"), ("c", "two")):
        queue.push(Candidate(name, flow, 10, "shared", priority=len(name)))
    assert {each.request_id for each in queue.rows_of("shared")} == {"a", "b", "c"}
    assert queue.waits_for("shared")
    for name in "abc":
        queue.remove(name)
    assert not queue.waits_for("shared")
    assert queue.rows_of("shared") == []


def test_urgent_rows_start_first() -> None:
    """A lower priority is earlier, whatever its flow had before."""
    rig = Rig()
    rig.push("normal")
    rig.push("late", priority=5)
    rig.push("urgent", priority=-5)
    assert rig.take() == ["urgent", "normal", "late"]


def test_flows_share_fairly_within_a_priority() -> None:
    """Urgency is no way around fairness among the urgent."""
    rig = Rig()
    rig.flood("a", 50, priority=-1)
    rig.flood("b", 50, priority=-1)
    first = Counter(rig.flows(20))
    assert abs(first["a"] - first["b"]) <= 1


def test_a_flood_of_urgent_rows_starves_nobody() -> None:
    """One start in FAIR_EVERY asks for no priority."""
    rig = Rig()
    rig.flood("urgent", 200, priority=-1000)
    rig.push("idle", flow="idle", priority=1000)
    assert "idle" in rig.flows(FAIR_EVERY)
    rig.flood("idle", 2, priority=1000)
    assert Counter(rig.flows(2 * FAIR_EVERY))["idle"] == 2


def test_urgent_rows_give_no_turns_away_before_others_wait() -> None:
    """What came long after the urgent rows gets no turn that was saved up."""
    rig = Rig()
    rig.flood("urgent", 100, priority=-1)
    rig.flows(50)
    rig.push("normal", flow="normal")
    assert rig.flows(FAIR_EVERY - 1) == ["urgent"] * (FAIR_EVERY - 1)
