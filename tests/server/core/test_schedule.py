"""The rules by which waiting rows start and prompts are cut into pieces."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from server.core.schedule import Candidate, FairQueue, PrefillPace, Room, plan_prefill

WIDE = Room(rows=1000, kv_tokens=10**9, rows_running=0, longest=0)


def row(name: str, flow: str = "", expected: int = 10) -> Candidate:
    """A candidate with the given name."""
    return Candidate(name, flow, expected, expected)


def names(rows: list[Candidate]) -> list[str]:
    """Request ids in order."""
    return [each.request_id for each in rows]


def test_rows_of_one_flow_start_in_the_order_in_which_they_came() -> None:
    """First come, first served within a flow."""
    queue = FairQueue()
    for name in "abc":
        queue.push(row(name))
    assert names(queue.take(WIDE, lambda _: True)) == ["a", "b", "c"]


def test_a_flood_on_one_flow_delays_another_by_one_row_at_most() -> None:
    """A flow that has been granted nothing goes before the flood's second row."""
    queue = FairQueue()
    for number in range(50):
        queue.push(row(f"flood{number}", "flood"))
    queue.push(row("quiet", "quiet"))
    assert "quiet" in names(queue.take(WIDE, lambda _: True))[:2]


def test_idling_earns_no_credit() -> None:
    """A flow that comes back shares from now on; it does not catch up on the past."""
    queue = FairQueue()
    for number in range(100):
        queue.push(row(f"a{number}", "a"))
    queue.take(Room(50, 10**9, 0, 0), lambda _: True)
    for number in range(50):
        queue.push(row(f"b{number}", "b"))
    first = Counter(each.flow for each in queue.take(Room(20, 10**9, 0, 0), lambda _: True))
    assert abs(first["a"] - first["b"]) <= 1


def test_a_row_that_is_not_ready_never_blocks_one_that_is() -> None:
    """A missing adapter is passed over and keeps its place."""
    queue = FairQueue()
    queue.push(row("cold", "cold"))
    queue.push(row("warm", "warm"))
    assert names(queue.take(WIDE, lambda each: each.flow == "warm")) == ["warm"]
    assert names(queue.take(WIDE, lambda _: True)) == ["cold"]


def start(queue: FairQueue, crowded: str, room: Room, batch: int = 3) -> list[str]:
    """Start what may start while the flow ``crowded`` waits for room."""
    held = queue.held_back(lambda each: each.flow == crowded, batch=batch)
    return names(
        queue.take(room, lambda each: each.flow != crowded and each.request_id not in held)
    )


def test_a_flood_gets_one_batch_ahead_of_a_row_that_it_crowds_out() -> None:
    """Then nothing of it starts, so that its adapter runs dry and makes room."""
    queue = FairQueue()
    for number in range(20):
        queue.push(row(f"flood{number}", "flood"))
    queue.push(row("crowded", "crowded"))
    one = Room(1, 10**9, 0, 0)
    started = [start(queue, "crowded", one) for _ in range(8)]
    assert started == [["flood0"], ["flood1"], ["flood2"], ["flood3"], [], [], [], []]
    assert names(queue.take(one, lambda _: True)) == ["crowded"]


def test_the_base_goes_on_while_an_adapter_waits_for_room() -> None:
    """It takes none."""
    queue = FairQueue()
    for number in range(20):
        queue.push(row(str(number)))
    queue.push(row("crowded", "crowded"))
    assert len(start(queue, "crowded", WIDE)) == 20


def test_a_row_that_is_crowded_out_is_not_overtaken_by_its_own_flow() -> None:
    """A chain's older revision must run dry before its new head gets the room."""
    queue = FairQueue()
    queue.push(row("before", "chain"))
    queue.push(row("head", "chain"))
    queue.push(row("pinned", "chain"))
    held = queue.held_back(lambda each: each.request_id == "head", batch=3)
    assert held == {"pinned"}


def test_nothing_is_held_back_where_nothing_waits_for_room() -> None:
    """A row whose adapter is still being read blocks nobody."""
    queue = FairQueue()
    queue.push(row("cold", "cold"))
    queue.push(row("warm", "warm"))
    assert queue.held_back(lambda _: False, batch=1) == frozenset()


def test_a_large_row_is_not_starved_by_smaller_ones_behind_it() -> None:
    """The first row that does not fit ends the round."""
    queue = FairQueue()
    queue.push(row("large", expected=90))
    queue.push(row("small", expected=10))
    busy = Room(rows=5, kv_tokens=100, rows_running=1, longest=10)
    assert queue.take(busy, lambda _: True) == []


def test_an_empty_batch_takes_any_row() -> None:
    """A row longer than the budget still runs, alone."""
    queue = FairQueue()
    queue.push(row("huge", expected=10**6))
    assert names(queue.take(Room(1, 100, 0, 0), lambda _: True)) == ["huge"]


def test_a_batch_costs_its_rows_times_the_longest() -> None:
    """Rows are padded to the longest one."""
    room = Room(rows=9, kv_tokens=100, rows_running=1, longest=40)
    assert room.takes(50)
    assert not room.takes(51)
    assert not room.after(50).takes(1)


def test_a_preempted_row_returns_to_the_head_of_its_flow() -> None:
    """Its turn was before every row that waits."""
    queue = FairQueue()
    queue.push(row("later"))
    queue.push_front(row("preempted"))
    assert names(queue.take(WIDE, lambda _: True)) == ["preempted", "later"]


def test_a_removed_row_never_starts_and_removing_it_again_is_no_error() -> None:
    """Cancelling is idempotent."""
    queue = FairQueue()
    queue.push(row("a"))
    assert queue.remove("a")
    assert not queue.remove("a")
    assert len(queue) == 0
    assert queue.take(WIDE, lambda _: True) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=30))
def test_every_row_starts_exactly_once(rows: list[tuple[str, int]]) -> None:
    """Nothing is lost and nothing runs twice, whatever the room."""
    queue = FairQueue()
    for number, (flow, expected) in enumerate(rows):
        queue.push(Candidate(str(number), flow, expected, expected))
    started: list[str] = []
    while len(queue):
        started += names(queue.take(Room(2, 60, 0, 0), lambda _: True))
    assert sorted(started, key=int) == [str(number) for number in range(len(rows))]


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(16, 600), st.integers(1, 8)
)
def test_a_piece_serves_the_due_row_within_its_budget(
    remaining: list[int], budget: int, most: int
) -> None:
    """Never more tokens than the budget, never more padding than half, always progress."""
    piece = plan_prefill(remaining, budget=budget, most_rows=most)
    assert piece.rows[0] == 0
    assert 1 <= len(piece.rows) <= most
    assert 1 <= piece.tokens_per_row * len(piece.rows) <= budget
    real = sum(min(remaining[index], piece.tokens_per_row) for index in piece.rows)
    assert 2 * real >= piece.tokens_per_row * len(piece.rows)


def pace(*, fixed_s: float = 0.05, tokens_per_s: float = 1000.0) -> PrefillPace:
    """Blocks of 250 ms on a device of 1,000 tokens a second beyond 50 ms for each piece."""
    return PrefillPace(block_s=0.25, fixed_s=fixed_s, tokens_per_s=tokens_per_s, most_tokens=4096)


def test_a_piece_lasts_one_block_while_most_rows_decode() -> None:
    """What each piece takes before its first token counts."""
    assert pace().budget(waiting=1, decoding=3) == 200
    assert pace().budget(waiting=8, decoding=17) == 200


def test_a_piece_lasts_four_blocks_while_nobody_decodes_or_many_wait() -> None:
    """A burst is worth one longer gap: its rows then decode together."""
    assert pace().budget(waiting=1, decoding=0) == 950
    assert pace().budget(waiting=8, decoding=16) == 950


def test_a_piece_is_never_so_short_that_most_of_it_is_lost() -> None:
    """Where a block holds hardly a token, what each piece takes anyhow is a third of it."""
    assert pace(fixed_s=0.24).budget(waiting=1, decoding=9) == 480
    assert pace(fixed_s=0.001, tokens_per_s=10).budget(waiting=1, decoding=9) == 16


def test_the_pace_follows_the_device_also_where_pieces_are_short() -> None:
    """Short pieces have fewer tokens a second; that must not make the next one shorter still."""
    steady = pace()
    for tokens in (1, 8, 16, 500):
        steady.observe(tokens=tokens, seconds=0.05 + tokens / 1000)
    assert round(steady.tokens_per_s, 6) == 1000
    slower = pace()
    for _ in range(40):
        slower.observe(tokens=100, seconds=0.3)
    assert round(slower.tokens_per_s) == 500
    assert round(slower.fixed_s, 3) == 0.1


def test_one_piece_that_was_held_up_does_not_change_much() -> None:
    """Nor does a piece without tokens."""
    held_up = pace()
    held_up.observe(tokens=0, seconds=9)
    held_up.observe(tokens=100, seconds=1000)
    assert held_up.budget(waiting=1, decoding=9) > 140
