"""A chain leaves a store as a record and is the same chain in another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.chain_record import ChainRecord
from adapters.errors import ChainExists, ChainNotFound, RevisionNotFound, StorageFull
from adapters.states import StageState
from adapters.store.archive import Arrived
from adapters.store.database import translated
from tests.adapters.store.rig import OTHER_BASE, Rig, opened, unused
from tests.chain_files import grown
from tests.faults.invariants import check, picture


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Rig]:
    """Another data directory."""
    with opened(tmp_path / "other") as made:
        yield made


def arrived(source: Rig, target: Rig, record: ChainRecord) -> Arrived:
    """What a chain file of everything brings, beside the store that takes it."""
    folder = target.store.incoming()
    folder.mkdir()
    revisions, datasets = {}, []
    for revision in record.revisions:
        shutil.copytree(source.store.revision_path(revision), folder / revision)
        revisions[revision] = (folder / revision, {"revision": revision})
    for dataset in record.datasets:
        shutil.copy(source.store.datasets.path(dataset), folder / dataset)
        datasets.append((source.store.datasets.get(dataset), folder / dataset))
    return Arrived(revisions, datasets)


def moved(source: Rig, target: Rig, chain: str = "support") -> ChainRecord:
    """The record of a chain that is in both now."""
    record, _ = source.store.archive.record(chain)
    target.store.archive.restore(record, arrived(source, target, record))
    target.reopen()
    return record


def test_a_restored_chain_is_the_same_chain(rig: Rig, other: Rig) -> None:
    """Stages, head, labels, counters, revisions, data sets, and nothing else."""
    grown(rig)
    record = moved(rig, other)
    check(other.store)
    assert other.store.archive.record("support") == (record, [])
    assert other.store.chains.get("support") == rig.store.chains.get("support")
    theirs, ours = picture(rig.store), picture(other.store)
    assert theirs == ours
    with pytest.raises(RevisionNotFound, match="was deleted on"):
        other.store.chains.resolve("support", 2)
    assert other.store.chains.first("support").number == 1
    for stage in record.stages:
        [event] = other.store.events.after(stage.id, 0, 9)
        assert event.data == {"state": stage.state}


def test_a_restored_chain_goes_on_with_its_own_numbers(rig: Rig, other: Rig) -> None:
    """After the highest that was ever given, also to a stage that stayed behind."""
    grown(rig)
    waiting = rig.add("support")
    record, left = rig.store.archive.record("support")
    assert [stage.id for stage in left] == [waiting.id]
    assert record.last_number == 6
    moved(rig, other)
    stage = other.grow("support")
    assert (stage.number, stage.parent) == (7, record.stages[-1].revision)
    assert other.store.chains.get("support").head == 7
    other.store.chains.rollback("support", 5)


def test_a_first_stage_that_waits_is_not_what_the_chain_began_with(rig: Rig, other: Rig) -> None:
    """It was paused before it started, and a later one went first."""
    rig.store.stages.transition(rig.add("support").id, StageState.PAUSED)
    rig.grow("support")
    moved(rig, other)
    assert other.store.chains.first("support").number == 2


def test_a_name_that_had_a_chain_before_keeps_its_records(rig: Rig, other: Rig) -> None:
    """They travel along, and the chain still begins where it began."""
    rig.grow("support")
    rig.store.deletion.chain("support", unused)
    rig.grow("support")
    record = moved(rig, other)
    assert (record.first_number, [each.number for each in record.stages]) == (2, [1, 2])
    assert other.store.chains.first("support").number == 2
    check(other.store)


def test_a_revision_that_is_there_already_stays_one(rig: Rig, other: Rig) -> None:
    """Two chains share it, and each may be deleted."""
    rig.grow("support", 5.0)
    other.grow("own", 5.0)
    record = moved(rig, other)
    assert len(other.revisions()) == 1
    other.store.deletion.chain("own", unused)
    check(other.store)
    assert other.store.has_revision(record.revisions[0])


def test_stages_keep_their_ids_where_they_are_free(rig: Rig) -> None:
    """On the same store under another name they get new ones."""
    grown(rig)
    record, _ = rig.store.archive.record("support")
    twin = replace(
        record, name="twin", stages=tuple(replace(each, chain="twin") for each in record.stages)
    )
    rig.store.archive.restore(twin, arrived(rig, rig, record))
    rig.reopen()
    check(rig.store)
    ids = [{stage.id for stage in rig.store.chains.stages(name)} for name in ("support", "twin")]
    assert ids[0].isdisjoint(ids[1])


def test_a_taken_name_is_refused_with_the_reason(rig: Rig, other: Rig) -> None:
    """There now, there once, or on another base."""
    grown(rig)
    record, _ = rig.store.archive.record("support")
    other.grow("support")
    before = picture(other.store)
    with pytest.raises(ChainExists, match="a chain 'support' already"):
        other.store.archive.restore(record, arrived(rig, other, record))
    other.store.deletion.chain("support", unused)
    with pytest.raises(ChainExists, match="There was a chain 'support' here"):
        other.store.archive.restore(record, arrived(rig, other, record))
    other.reopen(OTHER_BASE)
    with pytest.raises(ChainExists):
        other.store.archive.refuse_taken("support")
    assert len(before["stages"]) == 1


def test_a_chain_without_a_revision_has_no_record_to_take(rig: Rig) -> None:
    """And one that is not there has none either."""
    with pytest.raises(ChainNotFound):
        rig.store.archive.record("none")
    rig.add("support")
    with pytest.raises(RevisionNotFound, match="no revision yet"):
        rig.store.archive.record("support")


def test_a_full_disk_leaves_nothing(rig: Rig, other: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step finds no room, and it goes through once there is some."""
    grown(rig)
    record, _ = rig.store.archive.record("support")
    before = picture(other.store)
    for call in ("os.fsync", "pathlib.Path.rename", "pathlib.Path.replace"):
        brought = arrived(rig, other, record)

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "no room")

        with monkeypatch.context() as full:
            full.setattr(call, refuse)
            with pytest.raises(StorageFull), translated(other.directory):
                other.store.archive.restore(record, brought)
        other.reopen()
        check(other.store)
        assert picture(other.store) == before
    moved(rig, other)
