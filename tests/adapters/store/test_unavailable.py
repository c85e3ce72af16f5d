"""A revision whose files are lost: the server starts, serves the others, and says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.errors import AdapterFileError, RevisionNotFound
from adapters.formats.revision import revision_id
from adapters.stages.inspection import inspect
from adapters.stages.revisions import read_revision
from tests.adapters.store.rig import Rig, adapter, unused

Damage = Callable[[Path], object]


def cut(directory: Path) -> None:
    """A restored backup that ended too early."""
    file = directory / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def bend(directory: Path) -> None:
    """One bit of a failing disk."""
    file = directory / "adapters.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


LOSSES = [
    pytest.param(shutil.rmtree, "Its files are missing.", id="gone"),
    pytest.param(cut, "bytes, 4", id="cut"),
    pytest.param(
        lambda directory: (directory / "adapters.safetensors").unlink(), "bytes, 4", id="a file"
    ),
]


@pytest.mark.parametrize(("damage", "what"), LOSSES)
def test_a_revision_without_its_files_is_listed_as_unavailable(
    rig: Rig, damage: Damage, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason and the cure, under each of its names; everything else is as it was."""
    lost = rig.grow("a")
    rig.grow("b")
    rig.store.chains.fork("a", "c", None)
    rig.grow("a")
    directory = rig.store.revision_path(str(lost.revision))
    damage(directory)
    store = rig.reopen()
    stage = store.stages.get(lost.id)
    assert stage.unavailable is not None
    assert what in stage.unavailable
    assert f"Put {directory} back from a backup" in stage.unavailable
    assert stage.unavailable in caplog.text
    assert store.chains.get("c").unavailable == stage.unavailable
    assert [chain.unavailable is None for chain in store.chains.list()] == [True, True, False]
    assert [each.unavailable is None for each in store.chains.stages("a")] == [False, True]
    assert store.chains.present() == {"a": [2], "b": [1]}
    assert rig.grow("b").number == 2


def test_a_lost_revision_is_not_begun_with(rig: Rig) -> None:
    """Head, labels and forks stay where something can be served; deleting it mends the listing."""
    lost = rig.grow()
    rig.grow()
    shutil.rmtree(rig.store.revision_path(str(lost.revision)))
    chains = rig.reopen().chains
    moves: list[Callable[[], object]] = [
        lambda: chains.rollback("support", 1),
        lambda: chains.set_label("support", "stable", 1),
        lambda: chains.fork("support", "other", 1),
    ]
    for move in moves:
        with pytest.raises(RevisionNotFound, match=r"support@1 cannot be used\. Its files are"):
            move()
    assert chains.get("support").head == 2
    rig.store.deletion.revision("support", 1, unused)
    assert chains.stage("support", 1).unavailable is None
    assert chains.get("support").labels == {}


def test_a_lost_head_is_left_by_a_rollback(rig: Rig) -> None:
    """And may then be deleted, as the reason says."""
    rig.grow()
    lost = rig.grow()
    shutil.rmtree(rig.store.revision_path(str(lost.revision)))
    store = rig.reopen()
    assert store.chains.get("support").unavailable is not None
    assert store.chains.rollback("support", 1).unavailable is None
    store.deletion.revision("support", 2, unused)


def test_damage_that_only_a_read_shows_is_remembered_until_it_is_mended(rig: Rig) -> None:
    """Whoever reads it is told the file and the cure, and so is every list after."""
    stage = rig.grow()
    revision = str(stage.revision)
    directory = rig.store.revision_path(revision)
    whole = (directory / "adapters.safetensors").read_bytes()
    bend(directory)
    store = rig.reopen()
    assert store.stages.get(stage.id).unavailable is None
    with pytest.raises(AdapterFileError, match=f"{directory} is not what.*Put {directory}"):
        read_revision(store, revision)
    why = store.stages.get(stage.id).unavailable
    assert why is not None
    assert "the disk may be failing" in why
    (directory / "adapters.safetensors").write_bytes(whole)
    assert revision_id(read_revision(store, revision)) == revision
    assert store.stages.get(stage.id).unavailable is None


@pytest.mark.parametrize(("damage", "what"), [*LOSSES, pytest.param(bend, "", id="a bit")])
def test_the_same_adapter_once_more_puts_a_lost_one_back(
    rig: Rig, damage: Damage, what: str
) -> None:
    """It has the same id, so it is the same."""
    lost = rig.bring_in("a", 7.0)
    directory = rig.store.revision_path(str(lost.revision))
    damage(directory)
    store = rig.reopen()
    if not what:
        with pytest.raises(AdapterFileError):
            read_revision(store, str(lost.revision))
    assert rig.bring_in("b", 7.0).revision == lost.revision
    assert store.chains.get("a").unavailable is None
    assert revision_id(read_revision(store, str(lost.revision))) == revision_id(adapter(7.0))
    assert rig.reopen().chains.get("a").unavailable is None


def test_files_of_the_system_beside_a_revision_are_no_damage(rig: Rig) -> None:
    """A Mac leaves some in every directory that somebody looked at."""
    stage = rig.grow()
    (rig.store.revision_path(str(stage.revision)) / ".DS_Store").write_text("x" * 99)
    assert rig.reopen().stages.get(stage.id).unavailable is None


def test_an_inspection_names_what_is_lost_beside_a_running_server(rig: Rig) -> None:
    """By every name that leads to it; a changed bit is found where everything is read."""
    assert inspect(rig.directory / "nowhere", read=True).count == 0
    gone, bent = rig.grow("a"), rig.grow("b")
    rig.grow("c")
    rig.store.chains.fork("a", "d", None)
    shutil.rmtree(rig.store.revision_path(str(gone.revision)))
    bend(rig.store.revision_path(str(bent.revision)))
    found = inspect(rig.directory, read=False)
    assert (found.count, [each.names for each in found.lost]) == (3, [("a@1", "d@1")])
    assert "Put " in found.lost[0].cure
    scrambled = rig.grow("e")
    config = rig.store.revision_path(str(scrambled.revision)) / "adapter_config.json"
    config.write_bytes(b"x" * config.stat().st_size)
    found = inspect(rig.directory, read=True)
    assert [each.names for each in found.lost] == [("a@1", "d@1"), ("b@1",), ("e@1",)]
    assert "not what was published" in found.lost[1].what
    assert f"{config}: the file" in found.lost[2].what
