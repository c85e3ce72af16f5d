"""Deleting what requests use is refused, and keeps no request waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.errors import RevisionProtected
from adapters.pins import Pins
from adapters.stages.service import ChainService
from adapters.store import Store
from tests.adapters.store.rig import Clock, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store with two revisions."""
    clock = Clock()
    store = Store(tmp_path, clock=clock, base="b" * 64)
    made = Rig(tmp_path, store, clock)
    made.grow()
    made.grow()
    yield made
    store.close()


CALLS: dict[str, Callable[[ChainService], object]] = {
    "revision": lambda chains: chains.delete_revision("support", "1"),
    "prune": lambda chains: chains.prune("support", keep_last=1),
    "chain": lambda chains: chains.delete("support"),
}


@pytest.mark.parametrize("way", CALLS)
def test_requests_begin_while_files_are_removed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """They begin on the event loop, where waiting would stop every stream."""
    pins = Pins()
    begun: list[bool] = []

    def remove(_path: Path) -> None:
        free = threading.Event()

        def begin() -> None:
            with pins.guard():
                free.set()

        threading.Thread(target=begin).start()
        begun.append(free.wait(5))

    monkeypatch.setattr(rig.store._layout, "remove", remove)
    CALLS[way](ChainService(rig.store, pins, lambda _: None))
    assert begun
    assert all(begun)


@pytest.mark.parametrize("way", ["revision", "chain"])
def test_what_a_request_uses_stays(rig: Rig, way: str) -> None:
    """Until the request has ended."""
    pins = Pins()
    chains = ChainService(rig.store, pins, lambda _: None)
    first = str(rig.store.chains.resolve("support", 1).revision)
    with pins.pin(lambda: first), pytest.raises(RevisionProtected, match="a request is using"):
        CALLS[way](chains)
    CALLS[way](chains)


def test_the_engine_forgets_what_no_chain_has_any_more(rig: Rig) -> None:
    """A revision that a fork shares stays."""
    forgotten: list[str] = []
    chains = ChainService(rig.store, Pins(), forgotten.append)
    first = str(rig.store.chains.resolve("support", 1).revision)
    chains.fork("support", "copy", "1")
    chains.delete_revision("support", "1")
    assert forgotten == []
    chains.delete("copy")
    assert forgotten == [first]
