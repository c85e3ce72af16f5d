"""The names of a base and of the chains in its store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.pins import Pins
from adapters.store import database
from server.catalog import ChainCatalog
from server.core.ports import Model
from tests.adapters.store.rig import Rig, opened, unsynced
from tests.counting import calls, database_steps


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on an empty data directory."""
    with unsynced(), opened(tmp_path / "data") as made:
        yield made


def catalog(rig: Rig) -> ChainCatalog:
    """The names on the rig's store."""
    return ChainCatalog(Model("base", created=1), rig.store, Pins())


def ids(rig: Rig, *, pins: bool = False) -> list[str]:
    """Every listed name."""
    return [model.id for model in catalog(rig).models(pins=pins)]


def test_heads_labels_and_pins_are_listed_and_can_be_used(rig: Rig) -> None:
    """A chain whose first stage has not ended has no name yet; a deleted pin has none any more."""
    for _ in range(3):
        rig.grow("a")
    rig.store.chains.set_label("a", "stable", 2)
    rig.store.deletion.revision("a", 1, lambda _: False)
    rig.add("b")
    assert ids(rig) == ["base", "base:a", "base:a@stable"]
    assert ids(rig, pins=True) == ["base", "base:a", "base:a@stable", "base:a@2", "base:a@3"]
    for name in ids(rig, pins=True):
        with catalog(rig).pin(name) as target:
            assert target.name == name


def test_what_cannot_be_served_is_not_listed(rig: Rig) -> None:
    """Every listed name works; the others of its chain, and other chains, stay."""
    lost = rig.grow("a")
    rig.store.chains.set_label("a", "old", 1)
    rig.grow("a")
    rig.store.chains.fork("a", "b", 1)
    shutil.rmtree(rig.store.revision_path(str(lost.revision)))
    rig.reopen()
    assert ids(rig, pins=True) == ["base", "base:a", "base:a@2"]


def test_a_list_takes_as_many_queries_for_a_hundred_chains_as_for_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with every pin: a client may ask for it every second."""
    asked: list[str] = []
    real = database.Database.all

    def counted(self: database.Database, sql: str, values: database.Values = ()) -> object:
        asked.append(sql)
        return real(self, sql, values)

    rig.grow("a")
    monkeypatch.setattr(database.Database, "all", counted)
    assert len(ids(rig, pins=True)) == 3
    few = len(asked)
    for number in range(99):
        rig.store.chains.fork("a", f"chain-{number}", 1)
    asked.clear()
    assert len(ids(rig, pins=True)) == 201
    assert len(asked) == few == 3


def test_what_a_name_and_a_commit_take_does_not_depend_on_how_many_chains_there_are(
    rig: Rig,
) -> None:
    """Function calls and SQLite's own steps: with 5 chains and with 500."""
    rig.grow("a")
    names, forks = catalog(rig), iter(range(1000))

    def fork() -> None:
        rig.store.chains.fork("a", f"chain-{next(forks):03}", 1)

    def pin() -> None:
        with names.pin("base:chain-002"):
            pass

    def rollback() -> None:
        rig.store.chains.rollback("chain-002", 1)

    acts = (pin, lambda: names.model("base:chain-002"), fork, rollback)
    counts = []
    for chains in (5, 500):
        while len(rig.store.chains.list()) < chains:
            fork()
        for act in acts:
            act()  # what is done once for the process is done now
        each = [(calls(act), database_steps(rig.store._database, act)) for act in acts]
        counts.append(each)
    assert counts[0] == counts[1]
    assert all(steps > 0 for _, steps in counts[0])
