"""A data directory is opened by one process, found whole, or refused with what to do."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.errors import StoreError
from adapters.states import StageState
from adapters.store import Store
from tests.adapters.store.rig import BASE, FAULT, Clock, Rig, connect, opened


def open_store(directory: Path) -> Store:
    """A store, as a process opens it."""
    return Store(directory, clock=Clock(), base=BASE)


def test_a_new_directory_is_private(rig: Rig) -> None:
    """Nobody else reads training data."""
    found = [rig.directory, *(path for path in rig.directory.iterdir() if path.is_dir())]
    assert [stat.S_IMODE(path.stat().st_mode) for path in found] == [0o700] * 5


def test_a_directory_has_one_owner(rig: Rig) -> None:
    """The second store says who has it; after a close it is free."""
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}\\. Stop that server"):
        open_store(rig.directory)
    rig.store.close()
    open_store(rig.directory).close()
    rig.store.close()  # twice does no harm
    rig.store = open_store(rig.directory)


def test_a_directory_has_one_owner_among_processes(rig: Rig) -> None:
    """The lock is the system's: another process is refused too, and told whom to stop."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom adapters.store import Store\n"
        "Store(Path(sys.argv[1]), clock=float, base='b')\n"
    )
    command = [sys.executable, "-c", code, str(rig.directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is in use by process {os.getpid()}." in done.stderr


def test_a_lock_without_a_name_is_still_a_lock(rig: Rig) -> None:
    """The owner may be between taking it and writing its number."""
    os.truncate(rig.directory / "lock", 0)
    with pytest.raises(StoreError, match="in use by process unknown"):
        open_store(rig.directory)


def test_a_lock_file_that_a_killed_process_left_holds_nobody(tmp_path: Path) -> None:
    """Its number means nothing any more."""
    (tmp_path / "lock").write_text("1\n")
    open_store(tmp_path).close()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_what_was_written_is_there_after_a_restart(rig: Rig) -> None:
    """Stages, chains, labels, data sets and events."""
    rig.grow()
    rig.store.chains.set_label("support", "stable", 1)

    def everything() -> list[object]:
        store = rig.store
        stages = store.stages.list(chain=None, state=None, after=None, limit=9)
        sets = store.datasets.list(after=None, limit=9)
        return [store.chains.list(), stages, sets, store.events.after(stages.data[0].id, 0, 99)]

    before = everything()
    rig.reopen()
    assert everything() == before


@pytest.mark.parametrize("state", [StageState.RUNNING, StageState.EVALUATING])
def test_an_interrupted_attempt_is_given_back(rig: Rig, state: StageState) -> None:
    """Interrupted is not failed; the old claim is worth nothing."""
    rig.add()
    stage = rig.claim()
    if state is StageState.EVALUATING:
        rig.store.stages.transition(stage.id, state, fence=stage.fence)
    store = rig.reopen()
    assert store.stages.get(stage.id).state is StageState.QUEUED
    assert rig.claim().fence == stage.fence + 1


def test_what_waits_is_left_as_it_is(rig: Rig) -> None:
    """Queued stays queued, paused stays paused, what has ended stays ended."""
    paused = rig.add("a")
    rig.store.stages.transition(paused.id, StageState.PAUSED)
    rig.add("b")
    before = rig.store.stages.list(chain=None, state=None, after=None, limit=9)
    rig.reopen()
    assert rig.store.stages.list(chain=None, state=None, after=None, limit=9) == before


def test_files_that_no_row_knows_are_removed(rig: Rig) -> None:
    """Whatever a crash left between a file and its row; what a row knows stays."""
    revision = rig.grow().revision
    rig.add()
    stage = rig.claim()
    checkpoint = rig.checkpoint(stage, 2)
    data = rig.directory
    orphans = [
        data / "revisions" / ("f" * 64) / "adapters.safetensors",
        data / "revisions" / ".unfinished" / "adapters.safetensors",
        data / "datasets" / "deleted.jsonl",
        data / "incoming" / ".upload",
        checkpoint.with_name("step-9.safetensors"),
        checkpoint.with_name(".step-3.part"),
        data / "checkpoints" / "stage-gone" / "step-1.safetensors",
    ]
    for path in orphans:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (data / "revisions" / "link").symlink_to(data / "datasets")
    rig.reopen()
    assert rig.revisions() == {revision}
    assert not any(path.exists() for path in orphans)
    assert [path.name for path in (data / "checkpoints").iterdir()] == [stage.id]
    assert rig.store.checkpoints.newest_first(stage.id)[0] == (2, checkpoint)
    assert checkpoint.read_text() == "2"
    assert len(list((data / "datasets").iterdir())) == 1
    assert list((data / "incoming").iterdir()) == []


def test_what_cannot_be_removed_is_told_and_left(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tidying is no reason not to start."""
    (rig.directory / "datasets" / "orphan.jsonl").write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    rig.reopen()
    assert "orphan.jsonl is not needed and could not be removed: read-only" in caplog.text


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_revisions_without_a_database_are_not_swept(rig: Rig, left: str) -> None:
    """A database that was lost must not cost the adapters as well."""
    revision = rig.grow().revision
    rig.store.close()
    database = rig.directory / "chainlora.db"
    aside = database.rename(rig.directory / "aside")
    if left == "an empty file":
        database.touch()
    with pytest.raises(StoreError, match=r"revisions and no database.*backup"):
        open_store(rig.directory)
    assert rig.revisions() == {revision}
    aside.replace(database)
    rig.store = open_store(rig.directory)
    assert rig.store.chains.get("support").head_revision == revision


def test_a_damaged_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Its bytes stay as they are."""
    database = tmp_path / "chainlora.db"
    database.write_bytes(b"not a database, and longer than its header" * 50)
    before = database.read_bytes()
    with pytest.raises(StoreError, match=r"file is not a database\)\. Restore it from a backup"):
        open_store(tmp_path)
    assert database.read_bytes() == before


def test_damage_that_shows_later_is_a_store_error(tmp_path: Path) -> None:
    """A page in the middle: whoever reads it is told, in the same words."""
    with opened(tmp_path) as rig:
        rig.add()
        stage = rig.claim()
        for _ in range(8):
            rig.store.events.add(stage.id, stage.fence, "warning", {"message": "x" * 5000})
        rig.store.close()
        database = tmp_path / "chainlora.db"
        raw = bytearray(database.read_bytes())
        raw[3 * 4096 :] = b"\xff" * (len(raw) - 3 * 4096)
        database.write_bytes(raw)
        with pytest.raises(StoreError, match=r"malformed.*Restore it from a backup"):
            open_store(tmp_path).events.after(stage.id, 0, 99)


def test_commits_are_synced_to_the_disk(tmp_path: Path) -> None:
    """As a store is opened outside these tests: in full, with the rules of references on."""
    connection = connect(tmp_path / "chainlora.db")
    wanted = {"synchronous": 2, "journal_mode": "wal", "foreign_keys": 1}
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
    connection.close()
    assert found == wanted


@pytest.mark.parametrize("done", [1, 5, 12])
def test_a_first_start_that_was_cut_short_is_made_up_for(
    tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema is there as a whole or not at all."""
    schema = Path("adapters/store/schema.sql").read_text()
    parts = schema.split(";")

    class Half:
        def joinpath(self, _name: str) -> Half:
            return self

        def read_text(self) -> str:
            return ";".join(parts[:done]) + ";\nSELECT no_such_function();"

    with monkeypatch.context() as broken:
        broken.setattr("adapters.store.schema.files", lambda _package: Half())
        with pytest.raises(StoreError, match="no_such_function"):
            open_store(tmp_path)
    with opened(tmp_path) as rig:
        assert rig.grow().number == 1


@pytest.mark.parametrize("name", ["", "revisions", "lock"])
def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    """Something else is where it, or a part of it, should be."""
    directory = tmp_path / "data"
    at_fault = directory / name
    at_fault.parent.mkdir(exist_ok=True)
    if name == "lock":
        at_fault.mkdir()
    else:
        at_fault.write_text("not a directory")
    with pytest.raises(
        StoreError, match=rf"cannot be used \(.*: {at_fault}\)\. Give one"
    ) as caught:
        open_store(directory)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_database_that_another_program_writes_is_no_damage(rig: Rig) -> None:
    """Whoever reads on may; a write is refused with who is in the way, and works afterwards."""
    rig.store._database._writer.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(rig.directory / "chainlora.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="being written by another program"):
        rig.dataset()
    assert rig.store.chains.list() == []
    other.close()
    assert rig.add().number == 1


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """No call after the end reaches the file, and nobody is told that it is damaged."""
    store = open_store(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="is closed: the server is stopping"):
        store.chains.list()


def test_events_after_a_restart_go_on_counting(rig: Rig) -> None:
    """An event's id is never used again, so a client can go on where it was."""
    stage = rig.add()
    claimed = rig.claim()
    rig.store.stages.fail(stage.id, claimed.fence, FAULT)
    last = rig.store.events.after(stage.id, 0, 99)[-1].id
    rig.reopen()
    other = rig.add("other")
    assert rig.store.events.after(other.id, 0, 9)[0].id > last


def test_a_database_that_may_not_be_opened_is_no_damage(rig: Rig) -> None:
    """It is not to be restored from a backup: its permissions are to be mended."""
    rig.store.close()
    file = rig.directory / "chainlora.db"
    aside = file.rename(rig.directory / "aside")
    file.mkdir()
    with pytest.raises(StoreError, match=r"cannot be opened: let this user read and write it"):
        open_store(rig.directory)
    file.rmdir()
    aside.rename(file)
    rig.store = open_store(rig.directory)
