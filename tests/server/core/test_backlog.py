"""How much may be asked of the engine at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.backlog import Backlog
from server.core.errors import QueueFull


def backlog(
    *, rows: int = 2, queue_limit: int = 3, kv_tokens: int = 100, factor: int = 2
) -> Backlog:
    """Room for 100 tokens; requests for 200 may wait."""
    return Backlog(rows=rows, queue_limit=queue_limit, kv_tokens=kv_tokens, queue_kv_factor=factor)


def test_so_many_rows_may_wait_beside_those_that_run() -> None:
    """And a place is free again once a row has ended."""
    some = backlog()
    for number in range(5):
        some.add(str(number), 1, row_s=0)
    with pytest.raises(QueueFull, match="3 requests wait already"):
        some.add("more", 1, row_s=0)
    some.remove("0")
    some.remove("0")
    some.add("more", 1, row_s=0)


def test_rows_that_need_much_memory_are_fewer() -> None:
    """The message has every number that it takes to mend the request or the settings."""
    some = backlog(queue_limit=100)
    for number in range(3):
        some.add(str(number), 90, row_s=0)
    with pytest.raises(QueueFull) as refused:
        some.add("large", 31, row_s=0)
    for part in ("31 tokens", "270", "holds 100", "2 times", "kv_budget_bytes", "queue_kv_factor"):
        assert part in str(refused.value)
    some.add("small", 30, row_s=0)


def test_a_row_that_comes_alone_is_always_taken() -> None:
    """Also where it is reserved more than there is: it may end early, and would else never run."""
    backlog(factor=0).add("giant", 150, row_s=0)


def test_a_refusal_says_when_to_come_back_where_that_was_measured() -> None:
    """One row's end makes a place; for memory it takes as many as hold what is needed."""
    some = backlog(queue_limit=100)
    for number in range(3):
        some.add(str(number), 100, row_s=0)
    for row_s, after in ((0.0, None), (0.01, 1), (2.5, 5), (1e6, 600)):
        with pytest.raises(QueueFull) as refused:
            some.add("more", 150, row_s=row_s)
        assert refused.value.retry_after_s == after
    full = backlog(rows=1, queue_limit=1)
    full.add("a", 1, row_s=0)
    full.add("b", 1, row_s=0)
    with pytest.raises(QueueFull) as refused:
        full.add("c", 1, row_s=2.5)
    assert refused.value.retry_after_s == 3


@given(st.lists(st.one_of(st.integers(1, 150), st.none()), max_size=60))
def test_the_bound_holds_and_whoever_waits_gets_in(events: list[int | None]) -> None:
    """No order of arrivals and ends leaves more in, or an empty engine that refuses."""
    some, rows = backlog(queue_limit=8), dict[str, int]()
    for number, tokens in enumerate(events):
        if tokens is None:
            if rows:
                some.remove(next(iter(rows)))
                del rows[next(iter(rows))]
            continue
        try:
            some.add(str(number), tokens, row_s=0)
        except QueueFull:
            assert rows
            assert len(rows) == 10 or sum(rows.values()) + tokens > 300
        else:
            rows[str(number)] = tokens
        assert len(rows) <= 10
        assert len(rows) == 1 or sum(rows.values()) <= 300
