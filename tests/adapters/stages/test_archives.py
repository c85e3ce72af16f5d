"""Packing and opening on the real store: what is held meanwhile, what a failure leaves."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.errors import (
    AdapterFileError,
    ChainExists,
    DatasetNotFound,
    RevisionProtected,
    StorageFull,
)
from adapters.formats.chain_file import ChainFile, write_chain_file
from adapters.pins import Pins
from adapters.stages import archives
from tests.adapters.store.rig import Rig, opened, unsynced
from tests.chain_files import grown, packed, service
from tests.chain_files import opened as opened_file
from tests.faults.invariants import check, picture


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store with the chain ``support``."""
    with unsynced(), opened(tmp_path / "data") as made:
        grown(made)
        yield made


def test_no_revision_is_deleted_while_it_is_packed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in use by a request, as one that is answering; afterwards it may go."""
    pins = Pins()
    delete = rig.store.deletion.revision

    def meanwhile(*given: object) -> None:
        with pytest.raises(RevisionProtected, match="request is using it"):
            delete("support", 1, pins.in_use, pins.guard)
        assert rig.store.deletion.prune("support", 1, pins.in_use, pins.guard) == []
        write_chain_file(*given)  # type: ignore[arg-type]

    rig.store.chains.remove_label("support", "old")
    monkeypatch.setattr(archives, "write_chain_file", meanwhile)
    service(rig.store, pins=pins).pack("support", with_data=False).path.unlink()
    assert pins.counts() == {}
    delete("support", 1, pins.in_use, pins.guard)


def test_a_data_set_that_goes_meanwhile_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of the half file."""
    dataset = rig.store.archive.record("support")[0].datasets[0]

    def meanwhile(*given: object) -> None:
        (rig.directory / "datasets" / f"{dataset}.jsonl").unlink()
        write_chain_file(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(archives, "write_chain_file", meanwhile)
    with pytest.raises(DatasetNotFound, match="was deleted while it was packed"):
        service(rig.store).pack("support", with_data=True)
    assert list((rig.directory / "incoming").iterdir()) == []


def test_data_sets_that_were_deleted_before_are_counted(rig: Rig) -> None:
    """The file has the others, and opens."""
    rig.store.datasets.delete(rig.store.archive.record("support")[0].datasets[0])
    package = service(rig.store).pack("support", with_data=True)
    assert package.notes == ("1 of 2 data sets were deleted before.",)
    assert package.name == "support.chain"
    data = package.path.read_bytes()
    package.path.unlink()
    opened_file(rig, data, "twin")
    check(rig.store)
    assert service(rig.store).pack("support", with_data=False).notes == ()


def test_a_damaged_revision_is_not_packed(rig: Rig) -> None:
    """The reason says which and what to do; the file would be refused wherever it is opened."""
    revision = rig.store.archive.record("support")[0].revisions[0]
    weights = rig.store.revision_path(revision) / "adapters.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(AdapterFileError, match="not what was published under that id"):
        service(rig.store).pack("support", with_data=False)
    assert list((rig.directory / "incoming").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is packed, and while it is unpacked."""
    data = packed(rig)
    before = picture(rig.store)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as full:
        full.setattr("adapters.formats.chain_file.sync", refuse)
        with pytest.raises(StorageFull):
            service(rig.store).pack("support", with_data=True)
        with pytest.raises(StorageFull):
            opened_file(rig, data, "twin")
    check(rig.store)
    assert picture(rig.store) == before
    opened_file(rig, data, "twin")


def test_a_name_that_is_there_is_refused_before_anything_is_unpacked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more in the transaction, where two come at once."""
    data = packed(rig)
    with monkeypatch.context() as looked:
        looked.setattr(ChainFile, "unpack", None)
        with pytest.raises(ChainExists):
            opened_file(rig, data)
    with monkeypatch.context() as blind:
        real = rig.store.archive.refuse_taken
        calls: list[str] = []

        def second(name: str) -> None:
            calls.append(name)
            if len(calls) == 2:
                real(name)

        blind.setattr(rig.store.archive, "refuse_taken", second)
        with pytest.raises(ChainExists):
            opened_file(rig, data)
    assert calls == ["support", "support"]
    check(rig.store)
