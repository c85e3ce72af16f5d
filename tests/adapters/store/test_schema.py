"""A database of any earlier version is brought to this one, whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from adapters.errors import StoreError
from adapters.formats.mlx_lm import write_adapter
from adapters.formats.revision import revision_id
from adapters.states import TRANSITIONS, StageState
from adapters.store import Store, schema
from tests.adapters.store.rig import BASE, FAULT, Clock, adapter, opened

VERSION_1 = Path(__file__).with_name("version_1.sql")
"""Written by the code of version 1: a chain that succeeded once, failed once and is paused at step
2, and one whose stage was running when its process was killed."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory of version 1."""
    directory = tmp_path / "data"
    with closing(Store(directory, clock=Clock(), base=BASE)):
        pass
    (directory / "chainlora.db").unlink()
    with closing(sqlite3.connect(directory / "chainlora.db")) as connection:
        connection.executescript(VERSION_1.read_text())
    files = adapter(1.0)
    write_adapter(directory / "revisions" / revision_id(files), files)
    return directory


def version_of(directory: Path) -> int:
    """The schema's version in a directory that nobody has open."""
    with closing(sqlite3.connect(directory / "chainlora.db")) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def tables_of(directory: Path) -> list[tuple[str, ...]]:
    """Every statement that the database was made by, and the transitions that it allows."""
    with closing(sqlite3.connect(directory / "chainlora.db")) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        return made + connection.execute("SELECT * FROM transitions ORDER BY 1, 2").fetchall()


def test_a_database_of_version_1_goes_on_in_this_one(old: Path) -> None:
    """Heads, labels, failures and checkpoints are what they were, and stages run."""
    with opened(old) as rig:
        chain = rig.store.chains.get("support")
        assert (chain.head, chain.labels) == (1, {"stable": 1})
        states = [stage.state for stage in rig.store.chains.stages("support")]
        assert states == [StageState.SUCCEEDED, StageState.FAILED, StageState.PAUSED]
        assert rig.store.chains.stage("support", 2).error == FAULT
        paused = rig.store.chains.stage("support", 3)
        assert [step for step, _ in rig.store.checkpoints.newest_first(paused.id)] == [2]
        killed = rig.claim()
        assert (killed.chain, killed.fence) == ("other", 2)
        assert rig.publish(killed).number == 1
        rig.store.stages.transition(paused.id, StageState.QUEUED)
        assert rig.publish(rig.claim()).number == 3
    assert version_of(old) == schema.VERSION


def test_an_old_database_becomes_what_a_new_one_is(old: Path, tmp_path: Path) -> None:
    """Tables, indexes, triggers and the table of transitions."""
    for directory in (old, tmp_path / "new"):
        with opened(directory):
            pass
    assert sorted(tables_of(old)) == sorted(tables_of(tmp_path / "new"))
    pairs = {(str(source), str(target)) for source, all_ in TRANSITIONS.items() for target in all_}
    assert pairs <= set(tables_of(old))


def test_a_step_that_fails_leaves_the_old_database(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the steps before it; the next start takes them all."""
    before = tables_of(old)
    with monkeypatch.context() as broken:
        broken.setattr(schema, "STEPS", (*schema.STEPS, "SELECT no_such_function();"))
        broken.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(StoreError, match="no_such_function"):
            Store(old, clock=Clock(), base=BASE)
    assert (version_of(old), tables_of(old)) == (1, before)
    with opened(old) as rig:
        assert rig.store.chains.get("support").head == 1


def test_a_database_of_a_later_version_is_refused(old: Path) -> None:
    """It may hold what this version would destroy: named, with its file, and left as it is."""
    with closing(sqlite3.connect(old / "chainlora.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = tables_of(old)
    with pytest.raises(
        StoreError, match=r"chainlora\.db was written by a later version .*schema 99, this one"
    ):
        Store(old, clock=Clock(), base=BASE)
    assert (version_of(old), tables_of(old)) == (99, before)
