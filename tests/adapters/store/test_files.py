"""Files are names for the bytes of data sets, and take them along when the last one goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import DatasetNotFound, DatasetProtected, FileNotFound, FileProtected
from adapters.lineage import StoredFile
from adapters.states import StageState
from tests.adapters.store.rig import Rig

HOUR = 3600


def added(rig: Rig, text: str = '{"text": "f"}\n', *, expires_s: int | None = None) -> StoredFile:
    """A file with these bytes."""
    path = rig.store.incoming()
    path.write_text(text)
    return rig.store.files.add(
        path, rows=1, name="rows.jsonl", purpose="fine-tune", expires_s=expires_s
    )


def listed(rig: Rig) -> list[str]:
    """Ids, newest first."""
    page = rig.store.files.list(purpose=None, after=None, limit=100, ascending=False)
    return [file.id for file in page.data]


def bytes_there(rig: Rig) -> list[Path]:
    """What lies in the folder of data sets."""
    return list((rig.directory / "datasets").iterdir())


def test_a_file_expires_with_its_bytes(rig: Rig) -> None:
    """At its time, not before; nobody has to look for it first."""
    file = added(rig, expires_s=HOUR)
    rig.clock.now += HOUR - 1
    assert rig.store.files.get(file.id).expires_at == rig.clock.now + 1
    rig.clock.now += 1
    with pytest.raises(FileNotFound):
        rig.store.files.get(file.id)
    assert listed(rig) == []
    assert bytes_there(rig) == []


def test_bytes_that_another_file_has_stay_when_one_expires(rig: Rig) -> None:
    """Whichever came first."""
    added(rig, expires_s=HOUR)
    stays = added(rig)
    rig.clock.now += HOUR
    assert listed(rig) == [stays.id]
    assert len(bytes_there(rig)) == 1


def test_an_expired_file_is_gone_and_a_stage_that_needs_its_bytes_keeps_them(rig: Rig) -> None:
    """They go when the stage has ended, at the latest with the next start."""
    file = added(rig, expires_s=HOUR)
    stage = rig.add(dataset=file.dataset)
    rig.clock.now += HOUR
    assert listed(rig) == []
    assert len(bytes_there(rig)) == 1
    rig.store.stages.transition(stage.id, StageState.CANCELLED)
    rig.reopen()
    assert bytes_there(rig) == []


def test_a_data_set_whose_files_have_expired_can_be_deleted(rig: Rig) -> None:
    """Nobody can delete such a file first."""
    dataset = rig.dataset()
    added(rig, '{"text": "a"}\n', expires_s=HOUR)
    with pytest.raises(DatasetProtected, match="The file file-"):
        rig.store.datasets.delete(dataset)
    rig.clock.now += HOUR
    rig.store.datasets.delete(dataset)
    assert bytes_there(rig) == []


def test_a_data_set_that_was_added_for_its_own_sake_outlives_its_files(rig: Rig) -> None:
    """In either order, until it is deleted as a data set or as its own file."""
    first = added(rig, '{"text": "a"}\n')
    dataset = rig.dataset()
    rig.store.files.delete(first.id)
    assert rig.store.datasets.get(dataset).rows == 1
    rig.store.files.delete(f"file-{dataset}")
    with pytest.raises(DatasetNotFound):
        rig.store.datasets.get(dataset)


def test_the_data_set_of_files_is_found_by_its_hash_and_is_no_further_file(rig: Rig) -> None:
    """A stage that names the data set names a file; a list has those that were uploaded."""
    file = added(rig)
    assert rig.store.files.get(f"file-{file.dataset}").dataset == file.dataset
    assert listed(rig) == [file.id]
    with pytest.raises(FileNotFound, match="other files"):
        rig.store.files.delete(f"file-{file.dataset}")


def test_results_are_files_of_the_record_which_stays(rig: Rig) -> None:
    """Of a finished stage alone."""
    rig.fail()
    stage = rig.grow()
    (dataset, result) = sorted(listed(rig), key=lambda each: "results" in each)
    assert result == f"file-results-{stage.id}"
    file = rig.store.files.get(result)
    text = rig.store.files.content(result)
    assert text == "step,train_loss,valid_loss,tokens\n"
    assert (file.purpose, file.nbytes, file.stage) == ("fine-tune-results", len(text), stage.id)
    with pytest.raises(FileProtected):
        rig.store.files.delete(result)
    assert dataset.startswith("file-")


def test_results_have_each_step_once_with_all_tokens_so_far(rig: Rig) -> None:
    """Steps that were done once more after an interruption count once."""
    rig.add()
    stage = rig.claim()
    events = rig.store.events
    events.add(stage.id, stage.fence, "validation", {"step": 0, "loss": 3.0})
    for step, loss in ((1, 2.5), (2, 2.0), (2, 2.25)):
        events.add(stage.id, stage.fence, "step", {"step": step, "loss": loss, "tokens": 10})
    events.add(stage.id, stage.fence, "validation", {"step": 2, "loss": 1.5})
    rig.publish(stage)
    assert rig.store.files.content(f"file-results-{stage.id}") == (
        "step,train_loss,valid_loss,tokens\n0,,3.0,0\n1,2.5,,10\n2,2.25,1.5,20\n"
    )
