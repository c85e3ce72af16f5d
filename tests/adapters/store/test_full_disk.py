"""A disk without room: a typed error, and everything as it was before."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import StorageFull, StoreError
from adapters.store.database import translated
from tests.adapters.store.rig import Rig


@pytest.fixture
def full_database(rig: Rig) -> Rig:
    """A store whose database may not grow by a page: SQLite's own full disk."""
    rig.grow()
    connection = rig.store._database._writer
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    return rig


def test_a_full_database_is_a_typed_error_and_changes_nothing(full_database: Rig) -> None:
    """The transaction is undone as a whole, and goes through once there is room."""
    rig, text = full_database, "x" * 100_000
    rig.add()
    stage = rig.claim()
    for _ in range(2):
        with pytest.raises(StorageFull, match=r"is full\. Free some space there"):
            rig.store.events.add(stage.id, stage.fence, "warning", {"message": text})
    assert len(rig.store.events.after(stage.id, 0, 9)) == 2
    rig.store._database._writer.execute("PRAGMA max_page_count = 100000")
    rig.store.events.add(stage.id, stage.fence, "warning", {"message": text})
    assert len(rig.store.events.after(stage.id, 0, 9)) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename", "pathlib.Path.write_text"])
def test_a_revision_that_finds_no_room_is_not_published(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """The stage runs on under its claim, head and files are untouched, a second try succeeds."""
    first = rig.grow()
    rig.add()
    stage = rig.claim()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, "no room")

    with monkeypatch.context() as full:
        placing = rig.store.chains._placing
        real = placing.place
        full.setattr(placing, "place", lambda *given: (full.setattr(call, refuse), real(*given)))
        with pytest.raises(StorageFull, match="nothing was lost"):
            rig.publish(stage, 9.0)
    assert rig.store.chains.get("support").head_revision == first.revision
    assert rig.revisions() == {first.revision} | {
        name for name in rig.revisions() if name.startswith(".")
    }
    rig.reopen()
    assert rig.revisions() == {first.revision}
    assert rig.publish(rig.claim(), 9.0).number == 2


def test_other_errors_of_the_disk_are_themselves() -> None:
    """Only a lack of room is StorageFull."""
    with pytest.raises(PermissionError), translated(Path("file")):
        raise PermissionError(errno.EACCES, "no")


def test_a_data_set_that_finds_no_room_is_not_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row, and no file under its name."""
    file = rig.store.incoming()
    file.write_text("a\n")

    def refuse(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", refuse)
        with pytest.raises(StorageFull):
            rig.store.datasets.add(file, rows=1, name=None)
    assert rig.store.datasets.list(after=None, limit=9).data == []
    assert list((rig.directory / "datasets").iterdir()) == []
    assert rig.store.datasets.add(file, rows=1, name=None).rows == 1


def test_a_directory_that_cannot_be_made_for_lack_of_room_is_storage_full(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a checkpoint's first."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(StorageFull) as caught:
        rig.store.checkpoints.directory("stage-1")
    assert isinstance(caught.value, StoreError)
