"""Heads, labels, and what a name resolves to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import ChainExists, ChainNotFound, RevisionNotFound, StageError
from adapters.formats.mlx_lm import read_adapter, write_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Origin
from adapters.states import StageState
from tests.adapters.store.rig import SHAPE, Rig, adapter, unused


def test_a_published_stage_becomes_the_head(rig: Rig) -> None:
    """Revision, shape, metrics, state, time and head change together."""
    stage = rig.grow()
    assert stage.state is StageState.SUCCEEDED
    assert (stage.shape, stage.metrics, stage.finished_at) == (
        SHAPE,
        {"loss": 1.5},
        rig.clock.now,
    )
    chain = rig.store.chains.get("support")
    assert (chain.head, chain.head_revision) == (1, stage.revision)
    assert rig.store.revision_count() == 1


def test_a_revision_is_a_whole_adapter_with_its_manifest(rig: Rig) -> None:
    """Its content has the hash that it is called by."""
    stage = rig.grow()
    assert stage.revision is not None
    path = rig.store.revision_path(stage.revision)
    assert revision_id(read_adapter(path)) == stage.revision
    assert (path / "manifest.json").read_text().startswith('{\n "format"')
    assert rig.revisions() == {stage.revision}


def test_a_stage_that_changes_nothing_publishes_its_parents_revision(rig: Rig) -> None:
    """The same content twice is one directory under two numbers."""
    first, second = rig.grow(value=1.0), rig.grow(value=1.0)
    assert first.revision == second.revision
    assert rig.store.chains.get("support").head == 2
    assert rig.revisions() == {first.revision}


def test_a_chain_without_a_revision_has_no_head(rig: Rig) -> None:
    """It is listed from its first stage's intake on."""
    rig.add()
    [chain] = rig.store.chains.list()
    assert (chain.name, chain.head, chain.head_revision) == ("support", None, None)
    with pytest.raises(RevisionNotFound, match="no revision yet: its first stage has not ended"):
        rig.store.chains.resolve("support", None)


def test_a_name_resolves_by_head_number_label_and_revision(rig: Rig) -> None:
    """Four ways to say the same stage."""
    first, second = rig.grow(), rig.grow()
    chains = rig.store.chains
    assert chains.set_label("support", "stable", 1).labels == {"stable": 1}
    assert chains.resolve("support", None) == second
    for pin in (1, "stable", first.revision):
        assert chains.resolve("support", pin) == first


def _running(rig: Rig) -> None:
    rig.add()
    rig.claim()


def _deleted(rig: Rig) -> None:
    rig.grow()
    rig.grow()
    rig.clock.now += 86400
    rig.store.deletion.revision("support", 1, unused)
    rig.clock.now += 86400


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (lambda rig: rig.add(), r"^support@1 has no revision yet: the stage is queued\.$"),
        (_running, r"^support@1 has no revision yet: the stage is running\.$"),
        (lambda rig: rig.fail(), r"the stage failed \(non_finite: The loss is NaN\.\)$"),
        (lambda rig: rig.cancel(), r"^support@1 has no revision: the stage was cancelled\.$"),
        (_deleted, r"^support@1 was deleted on 2027-01-16; its lineage record stays\.$"),
        (lambda rig: rig.add("other"), "There is no chain 'support' on this base"),
    ],
)
def test_a_pin_without_a_revision_says_why(rig: Rig, arrange: Any, reason: str) -> None:
    """Failed, cancelled, deleted, not there yet: never just unknown."""
    arrange(rig)
    with pytest.raises((RevisionNotFound, ChainNotFound), match=reason):
        rig.store.chains.resolve("support", 1)


@pytest.mark.parametrize("number", [0, 2, -1, 2**63 - 1, 2**63, 10**40])
def test_a_number_that_was_never_given_is_unknown(rig: Rig, number: int) -> None:
    """Also one that is larger than any integer of the database."""
    rig.grow()
    with pytest.raises(RevisionNotFound, match=f"'support' has no stage {number}"):
        rig.store.chains.resolve("support", number)


@pytest.mark.parametrize("pin", ["stable", "0" * 64, "", "1"])
def test_a_text_that_is_neither_label_nor_revision_is_unknown(rig: Rig, pin: str) -> None:
    """The error says what it was looked up as."""
    rig.grow()
    with pytest.raises(RevisionNotFound, match="no stage number, revision id or label"):
        rig.store.chains.resolve("support", pin)


def test_a_revision_id_prefers_the_newest_stage_that_still_has_it(rig: Rig) -> None:
    """A stage whose revision was deleted comes last; without another, it says since when."""
    first = rig.grow(value=1.0)
    rig.grow(value=1.0)
    rig.grow(value=2.0)
    chains = rig.store.chains
    assert chains.resolve("support", first.revision).number == 2
    rig.store.deletion.revision("support", 2, unused)
    assert chains.resolve("support", first.revision).number == 1
    rig.store.deletion.revision("support", 1, unused)
    with pytest.raises(RevisionNotFound, match="support@2 was deleted on"):
        chains.resolve("support", first.revision)


def test_the_head_moves_back_and_forth(rig: Rig) -> None:
    """A rollback to a later revision is one too; to what is not there, it is refused."""
    first, second = rig.grow(), rig.grow()
    chains = rig.store.chains
    assert chains.rollback("support", 1).head_revision == first.revision
    assert chains.rollback("support", second.revision).head == 2
    rig.fail()
    with pytest.raises(RevisionNotFound, match="the stage failed"):
        chains.rollback("support", 3)
    assert chains.get("support").head == 2
    with pytest.raises(ChainNotFound, match="no chain 'other'"):
        chains.rollback("other", 1)


def test_a_head_that_is_moved_while_a_stage_runs_stays(rig: Rig) -> None:
    """The revision is there under its number; an event before the end says why it is no head."""
    rig.grow()
    rig.grow()
    rig.add()
    stage = rig.claim()
    rig.store.chains.rollback("support", 1)
    done = rig.publish(stage)
    assert rig.store.chains.get("support").head == 1
    assert rig.store.chains.resolve("support", 3).revision == done.revision
    *_, warning, end = rig.store.events.after(stage.id, 0, 99)
    assert warning.kind == "warning"
    assert "was moved to stage 1 while this stage ran" in warning.data["message"]
    assert end.data == {"state": "succeeded"}


def test_a_label_moves_and_goes(rig: Rig) -> None:
    """One stage may have several; a label is on one stage."""
    rig.grow()
    rig.grow()
    chains = rig.store.chains
    chains.set_label("support", "stable", 1)
    chains.set_label("support", "v1.0", None)
    assert chains.set_label("support", "stable", 2).labels == {"stable": 2, "v1.0": 2}
    assert chains.list()[0].labels == {"stable": 2, "v1.0": 2}
    assert chains.remove_label("support", "stable").labels == {"v1.0": 2}
    with pytest.raises(RevisionNotFound, match="no label 'stable'"):
        chains.remove_label("support", "stable")
    with pytest.raises(RevisionNotFound, match="no stage 9"):
        chains.set_label("support", "next", 9)


@pytest.mark.parametrize("label", ["", "1", "3x", "a" * 65, "a b", "é", "a" * 64, "a:b"])
def test_a_label_that_could_be_something_else_is_refused(rig: Rig, label: str) -> None:
    """A number is a stage, 64 hex digits are a revision id."""
    rig.grow()
    with pytest.raises(StageError, match="cannot be a label"):
        rig.store.chains.set_label("support", label, 1)


def test_all_stages_of_a_chain_are_told_also_those_without_a_revision(rig: Rig) -> None:
    """The lineage is the whole history, by number."""
    rig.grow()
    rig.fail()
    rig.cancel()
    rig.add()
    rig.add("other")
    states = [stage.state.value for stage in rig.store.chains.stages("support")]
    assert states == ["succeeded", "failed", "cancelled", "queued"]
    with pytest.raises(ChainNotFound):
        rig.store.chains.stages("nobody")


def test_a_fork_begins_with_the_named_revision(rig: Rig) -> None:
    """No copy: the same directory, a chain of its own, numbers of its own."""
    first = rig.grow()
    rig.grow()
    fork = rig.store.chains.fork("support", "beta", 1)
    assert (fork.head, fork.head_revision) == (1, first.revision)
    stage = rig.store.chains.stage("beta", 1)
    assert (stage.origin, stage.shape, stage.request) == (Origin.FORKED, SHAPE, None)
    assert rig.store.revision_count() == 2
    rig.add("beta")
    assert rig.claim().parent == first.revision
    with pytest.raises(ChainExists, match="'beta' already"):
        rig.store.chains.fork("support", "beta", None)


def test_an_import_begins_a_chain(rig: Rig) -> None:
    """Its stage has succeeded, without a request."""
    stage = rig.bring_in("support", 5.0)
    assert (stage.number, stage.origin, stage.state) == (
        1,
        Origin.IMPORTED,
        StageState.SUCCEEDED,
    )
    assert rig.store.chains.resolve("support", None) == stage
    assert stage.revision is not None
    assert rig.store.has_revision(stage.revision)


def test_a_refused_import_leaves_no_file(rig: Rig) -> None:
    """The name is looked at before anything is put in place."""
    there = rig.grow()
    with pytest.raises(ChainExists, match="or delete it first"):
        rig.bring_in("support", 9.0)
    assert rig.revisions() == {there.revision}


def test_a_revision_that_is_gone_has_no_path(rig: Rig) -> None:
    """Whoever asks for the files is told."""
    stage = rig.grow()
    rig.store.deletion.chain("support", unused)
    assert stage.revision is not None
    assert not rig.store.has_revision(stage.revision)
    with pytest.raises(RevisionNotFound, match="it was deleted"):
        rig.store.revision_path(stage.revision)
    assert rig.store.revision_count() == 0


def test_unfinished_paths_are_fresh_and_hidden(rig: Rig) -> None:
    """Two writers never meet."""
    paths: list[Path] = [rig.store.revision_temp(), rig.store.incoming()]
    assert len({*paths, rig.store.revision_temp()}) == 3
    assert all(path.name.startswith(".") and not path.exists() for path in paths)


def test_a_chain_begins_anew_under_a_name_that_was_deleted(rig: Rig) -> None:
    """Its first stage is its own, not that of the chain that had the name before."""
    one = rig.grow()
    rig.grow()
    assert rig.store.chains.first("support").id == one.id
    rig.store.deletion.chain("support", unused)
    with pytest.raises(ChainNotFound):
        rig.store.chains.first("support")
    again = rig.bring_in("support", 7.0)
    rig.grow()
    assert rig.store.chains.first("support").id == again.id


def test_one_adapter_in_two_chains_has_the_shape_that_each_was_given(rig: Rig) -> None:
    """The same parameters are one revision, whose files say what the first chain said."""
    rig.bring_in("a", 5.0)
    directory = rig.store.revision_temp()
    files = adapter(5.0)
    wider = replace(SHAPE, num_layers=-1)
    write_adapter(directory, replace(files, shape=wider))
    stage = rig.store.chains.import_revision(
        "b", directory, revision_id(files), shape=wider, manifest={}, origin=Origin.IMPORTED
    )
    assert rig.store.revision_count() == 1
    assert stage.shape == wider
    assert rig.store.chains.resolve("a", None).shape == SHAPE
