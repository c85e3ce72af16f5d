"""Training rows by the hash of their bytes."""

from __future__ import annotations

import hashlib

import pytest

from adapters.errors import DatasetNotFound, DatasetProtected
from adapters.states import StageState
from tests.adapters.store.rig import FAULT, Rig


def add(rig: Rig, text: str, *, rows: int = 1, name: str | None = None) -> str:
    """The id of a data set."""
    file = rig.store.incoming()
    file.write_text(text)
    dataset = rig.store.datasets.add(file, rows=rows, name=name)
    assert not file.exists()
    return dataset.id


def test_a_data_set_is_known_by_the_hash_of_its_bytes(rig: Rig) -> None:
    """Size, rows and name are kept with it."""
    text = '{"text": "é"}\n' * 3
    dataset = rig.store.datasets.get(add(rig, text, rows=3, name="greetings"))
    assert dataset.id == hashlib.sha256(text.encode()).hexdigest()
    assert (dataset.nbytes, dataset.rows, dataset.name) == (len(text.encode()), 3, "greetings")
    assert dataset.created_at == rig.clock.now
    assert rig.store.datasets.path(dataset.id).read_text() == text


def test_a_large_file_is_hashed_in_pieces(rig: Rig) -> None:
    """More than one piece, and not a whole number of them."""
    text = "x" * 2_500_001
    assert add(rig, text) == hashlib.sha256(text.encode()).hexdigest()


def test_the_same_bytes_twice_are_one_data_set(rig: Rig) -> None:
    """The first name and time stay."""
    first = add(rig, "a\n", name="one")
    rig.clock.now += 5
    assert add(rig, "a\n", name="two") == first
    [dataset] = rig.store.datasets.list(after=None, limit=9).data
    assert (dataset.name, dataset.created_at) == ("one", rig.clock.now - 5)


def test_data_sets_are_listed_newest_first_in_pages(rig: Rig) -> None:
    """``after`` is the last one of the page before."""
    ids = [add(rig, f"{n}\n") for n in range(3)]
    page = rig.store.datasets.list(after=None, limit=2)
    assert ([each.id for each in page.data], page.has_more) == ([ids[2], ids[1]], True)
    page = rig.store.datasets.list(after=ids[1], limit=2)
    assert ([each.id for each in page.data], page.has_more) == ([ids[0]], False)
    with pytest.raises(DatasetNotFound, match="no data set 'nothing'"):
        rig.store.datasets.list(after="nothing", limit=2)


def test_a_data_set_that_no_stage_needs_may_go(rig: Rig) -> None:
    """The stages that used it keep its hash."""
    stage = rig.fail()
    assert stage.request is not None
    dataset = stage.request.dataset
    path = rig.store.datasets.path(dataset)
    rig.store.datasets.delete(dataset)
    assert not path.exists()
    with pytest.raises(DatasetNotFound):
        rig.store.datasets.path(dataset)
    with pytest.raises(DatasetNotFound):
        rig.store.datasets.delete(dataset)
    assert rig.store.stages.get(stage.id).request == stage.request


@pytest.mark.parametrize("field", ["dataset", "validation"])
def test_a_data_set_of_an_unfinished_stage_stays(rig: Rig, field: str) -> None:
    """For training or for validation; it may go once the stage has ended."""
    needed = rig.dataset("needed\n")
    stage = rig.add(**{field: needed})
    for _ in range(2):
        with pytest.raises(DatasetProtected, match=f"{stage.id} needs this data set"):
            rig.store.datasets.delete(needed)
        rig.store.claim()
    rig.store.stages.transition(stage.id, StageState.PAUSED, fence=1)
    with pytest.raises(DatasetProtected):
        rig.store.datasets.delete(needed)
    rig.store.stages.transition(stage.id, StageState.CANCELLED)
    rig.store.datasets.delete(needed)


def test_deleted_bytes_may_come_again(rig: Rig) -> None:
    """As a new data set of the same id."""
    first = add(rig, "a\n")
    rig.store.datasets.delete(first)
    assert add(rig, "a\n", rows=2) == first
    assert rig.store.datasets.get(first).rows == 2
    rig.add(dataset=first)
    stage = rig.claim()
    rig.store.stages.fail(stage.id, stage.fence, FAULT)
