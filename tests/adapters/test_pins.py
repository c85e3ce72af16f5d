"""Uses of revisions are counted, so that none is deleted under a request."""

from __future__ import annotations

import threading

import pytest

from adapters.pins import Pins


def test_a_revision_is_in_use_while_its_context_is_open() -> None:
    """Each open context counts; the last one that closes ends the use."""
    pins = Pins()
    with pins.pin(lambda: "r1") as revision:
        assert revision == "r1"
        with pins.pin(lambda: "r1"), pins.pin(lambda: "r2"):
            assert pins.counts() == {"r1": 2, "r2": 1}
        assert pins.counts() == {"r1": 1}
        assert pins.in_use("r1")
        assert not pins.in_use("r2")
    assert pins.counts() == {}


def test_a_context_that_fails_ends_its_use() -> None:
    """Cancelled and broken requests let go too."""
    pins = Pins()
    with pytest.raises(RuntimeError, match="gone"), pins.pin(lambda: "r1"):
        raise RuntimeError("gone")
    assert not pins.in_use("r1")


def test_a_name_that_resolves_to_nothing_counts_nothing() -> None:
    """The error is the resolver's own."""
    pins = Pins()

    def unknown() -> str:
        raise LookupError("no such chain")

    with pytest.raises(LookupError, match="no such chain"), pins.pin(unknown):
        pass
    assert pins.counts() == {}


def test_nothing_is_resolved_while_a_deletion_looks() -> None:
    """A use that begins meanwhile resolves after the deletion, never before it."""
    pins = Pins()
    order: list[str] = []
    asking = threading.Event()

    def resolve() -> str:
        order.append("resolved")
        return "r1"

    def use() -> None:
        asking.set()
        with pins.pin(resolve):
            order.append("used")

    thread = threading.Thread(target=use)
    with pins.guard():
        thread.start()
        asking.wait()
        assert not pins.in_use("r1")
        order.append("deleted")
    thread.join()
    assert order == ["deleted", "resolved", "used"]


def test_a_deletion_that_comes_later_sees_the_use() -> None:
    """Resolving and counting is one step: there is no moment in between."""
    pins = Pins()
    resolving, seen = threading.Event(), []

    def look() -> None:
        resolving.wait()
        with pins.guard():
            seen.append(pins.in_use("r1"))

    thread = threading.Thread(target=look)
    thread.start()

    def resolve() -> str:
        resolving.set()
        return "r1"

    with pins.pin(resolve):
        thread.join()
    assert seen == [True]


def test_many_threads_leave_no_use_behind() -> None:
    """Counting is exact under contention."""
    pins = Pins()

    def use() -> None:
        for turn in range(200):
            with pins.pin(lambda turn=turn: f"r{turn % 3}"):  # type: ignore[misc]
                pass

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pins.counts() == {}
