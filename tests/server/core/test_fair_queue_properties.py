"""What holds for every order of arrivals, and what the queue costs."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from server.core.fair_queue import Room
from tests.counting import calls
from tests.server.core.fair_rig import ONE, Rig

ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.integers(-1, 1)), max_size=40
)


@given(ROWS)
def test_every_row_starts_exactly_once(rows: list[tuple[str, int, int]]) -> None:
    """Nothing is lost, nothing runs twice, and no row of any size or priority blocks for ever."""
    rig = Rig()
    for number, (flow, expected, priority) in enumerate(rows):
        rig.push(str(number), flow=flow, expected=expected, priority=priority)
    started: list[str] = []
    while len(rig.queue):
        more = rig.take(Room(2, 60, 0, 0))
        assert more, "a ready row and an empty batch: something must start"
        started += more
    assert sorted(started, key=int) == [str(number) for number in range(len(rows))]


@given(ROWS, st.integers(1, 5), st.integers(50, 200))
def test_a_batch_never_outgrows_its_budget_and_never_idles_beside_a_row_that_fits(
    rows: list[tuple[str, int, int]], most: int, kv_tokens: int
) -> None:
    """Work conserving: with one giant row and many small ones the device is never left empty."""
    rig = Rig()
    sizes = {}
    for number, (flow, expected, priority) in enumerate(rows):
        sizes[str(number)] = expected
        rig.push(str(number), flow=flow, expected=expected, priority=priority)
    running: list[str] = []
    while len(rig.queue):
        longest = max((sizes[name] for name in running), default=0)
        running += rig.take(Room(most - len(running), kv_tokens, len(running), longest))
        assert running
        assert len(running) <= most
        longest = max(sizes[name] for name in running)
        assert len(running) == 1 or len(running) * longest <= kv_tokens
        running.pop(0)


ARRIVALS = st.lists(
    st.one_of(st.none(), st.tuples(st.sampled_from("abcd"), st.integers(1, 50))), max_size=80
)


@given(ARRIVALS)
def test_flows_that_wait_all_the_while_lie_one_row_each_apart(
    arrivals: list[tuple[str, int] | None],
) -> None:
    """Bounded lag for every order of arrivals: theorem 1 of the paper, with rows of at most 50."""
    rig = Rig()
    rig.flood("one", 300, expected=50)
    rig.flood("two", 300, expected=7)
    served = Counter[str]()
    for number, arrival in enumerate([*arrivals, *[None] * 40]):
        if arrival is not None:
            rig.push(str(number), flow=arrival[0], expected=arrival[1])
            continue
        for row in rig.queue.take(ONE):
            served[row.flow] += row.expected
        assert abs(served["one"] - served["two"]) <= 50 + 7


@given(ARRIVALS, st.sampled_from("abcd"))
def test_whoever_comes_waits_for_one_row_of_each_other_flow(
    arrivals: list[tuple[str, int] | None], flow: str
) -> None:
    """Whatever came before: a flow with nothing waiting is never behind another's queue."""
    rig = Rig()
    for number, arrival in enumerate(arrivals):
        if arrival is None:
            rig.flows(1)
        elif arrival[0] != flow:
            rig.push(str(number), flow=arrival[0], expected=arrival[1])
    rig.push("mine", flow=flow)
    ahead = Counter[str]()
    while (row := rig.queue.take(ONE)[0]).flow != flow:
        ahead[row.flow] += 1
    assert all(count <= 1 for count in ahead.values())


def test_what_it_takes_to_start_a_row_does_not_depend_on_how_many_wait() -> None:
    """Nor what it takes to forget one."""
    rigs = [Rig(), Rig()]
    for rig, waiting in zip(rigs, (10, 1000), strict=True):
        for flow in "abcd":
            rig.flood(flow, waiting)
    assert len({calls(lambda rig=rig: rig.take(ONE)) for rig in rigs}) == 1  # type: ignore[misc]
    assert len({calls(lambda rig=rig: rig.queue.remove("b9")) for rig in rigs}) == 1  # type: ignore[misc]
