"""What may be deleted, what is protected, and what stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from adapters.errors import ChainNotFound, RevisionNotFound, RevisionProtected
from adapters.lineage import Stage
from adapters.states import StageState
from tests.adapters.store.rig import FAULT, Rig, unused


def remaining(rig: Rig, chain: str = "support") -> list[int]:
    """The numbers whose revision is there."""
    return [
        stage.number
        for stage in rig.store.chains.stages(chain)
        if stage.revision is not None and stage.revision_deleted_at is None
    ]


def test_a_deleted_revision_leaves_its_record(rig: Rig) -> None:
    """Rule 5: files and revision go; hashes, data, settings and losses stay; the head works."""
    first = rig.grow()
    second = rig.grow()
    rig.clock.now += 60
    gone = rig.store.deletion.revision("support", 1, unused)
    assert gone.revision_deleted_at == rig.clock.now
    kept = (gone.revision, gone.request, gone.metrics, gone.state)
    assert kept == (first.revision, first.request, first.metrics, StageState.SUCCEEDED)
    assert rig.revisions() == {second.revision}
    assert rig.store.chains.resolve("support", None).revision == second.revision
    with pytest.raises(RevisionNotFound, match="was deleted"):
        rig.store.deletion.revision("support", 1, unused)


@pytest.mark.parametrize("way", ["revision", "prune", "chain"])
def test_the_guard_lasts_until_the_commit_and_no_longer(rig: Rig, way: str) -> None:
    """Nobody begins to use what goes; whoever serves does not wait for files to be removed."""
    first = rig.grow()
    rig.grow()
    seen: list[tuple[bool, bool]] = []

    @contextmanager
    def guard() -> Iterator[None]:
        yield
        row = rig.store.stages.get(first.id)
        seen.append((row.revision_deleted_at is not None, first.revision in rig.revisions()))

    deletion = rig.store.deletion
    if way == "revision":
        deletion.revision("support", 1, unused, guard)
    elif way == "prune":
        deletion.prune("support", 1, unused, guard)
    else:
        deletion.chain("support", unused, guard)
    assert seen == [(True, True)]
    assert first.revision not in rig.revisions()


def _head(rig: Rig, stage: Stage) -> None:
    rig.store.chains.rollback("support", 1)


def _label(rig: Rig, stage: Stage) -> None:
    rig.store.chains.set_label("support", "stable", 1)


def _queued_child(rig: Rig, stage: Stage) -> None:
    rig.add(parent=stage.revision)


def _paused_child(rig: Rig, stage: Stage) -> None:
    rig.store.chains.rollback("support", 1)
    rig.add()
    child = rig.claim()
    rig.store.stages.transition(child.id, StageState.PAUSED, fence=child.fence)
    rig.store.chains.rollback("support", 2)


def _running_child(rig: Rig, stage: Stage) -> None:
    rig.store.chains.rollback("support", 1)
    rig.add()
    rig.claim()
    rig.store.chains.rollback("support", 2)


@pytest.mark.parametrize(
    ("protect", "reason"),
    [
        (_head, "it is the chain's head. Roll the chain back"),
        (_label, "it has the label 'stable'. Take the label away"),
        (_queued_child, "the unfinished stage stage-[0-9a-f]{24} starts from it"),
        (_paused_child, "starts from it. Cancel that stage first"),
        (_running_child, "starts from it. Cancel that stage first"),
    ],
)
def test_a_protected_revision_stays_and_says_why(rig: Rig, protect: Any, reason: str) -> None:
    """Rule 10: heads, labels, and parents of unfinished stages, in deletion and in pruning."""
    first = rig.grow()
    rig.grow()
    protect(rig, first)
    with pytest.raises(RevisionProtected, match=rf"support@1 cannot be deleted: .*{reason}"):
        rig.store.deletion.revision("support", 1, unused)
    rig.store.deletion.prune("support", 0, unused)
    assert 1 in remaining(rig)
    assert first.revision in rig.revisions()


def test_a_revision_in_use_stays(rig: Rig) -> None:
    """Rule 10: an answer that is being written keeps its parameters."""
    first = rig.grow()
    rig.grow()
    asked: list[str] = []

    def in_use(revision: str) -> bool:
        asked.append(revision)
        return True

    with pytest.raises(RevisionProtected, match="a request is using it"):
        rig.store.deletion.revision("support", first.revision, in_use)
    assert rig.store.deletion.prune("support", 1, in_use) == []
    assert asked == [first.revision] * 2


def test_the_parent_of_a_finished_stage_may_go(rig: Rig) -> None:
    """A revision is cumulative: nothing needs its parent any more."""
    rig.grow()
    rig.grow()
    rig.fail()
    rig.cancel()
    rig.store.deletion.revision("support", 1, unused)
    assert remaining(rig) == [2]


def test_a_revision_that_a_fork_shares_stays_until_both_let_it_go(rig: Rig) -> None:
    """One directory, two stages: the first deletion marks its stage only."""
    first = rig.grow()
    rig.store.chains.fork("support", "beta", 1)
    rig.grow("support")
    rig.grow("beta")
    rig.store.deletion.revision("support", 1, unused)
    assert first.revision in rig.revisions()
    assert rig.store.chains.resolve("beta", 1).revision == first.revision
    with pytest.raises(RevisionNotFound, match="support@1 was deleted"):
        rig.store.chains.resolve("support", 1)
    rig.store.deletion.revision("beta", 1, unused)
    assert first.revision not in rig.revisions()


def test_content_that_was_deleted_can_be_published_again(rig: Rig) -> None:
    """By a stage of its own; the deleted one stays deleted."""
    first = rig.grow(value=1.0)
    rig.grow(value=2.0)
    rig.store.deletion.revision("support", 1, unused)
    third = rig.grow(value=1.0)
    assert third.revision == first.revision
    assert rig.store.chains.resolve("support", first.revision).number == 3
    assert remaining(rig) == [2, 3]


def test_a_deletion_that_was_cut_short_leaves_nothing_to_be_taken_for_whole(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a directory never lies under a revision's name, where publishing would find it."""
    first = rig.grow(value=1.0)
    rig.grow(value=2.0)

    def fail(path: Any, **_: Any) -> None:
        next(path.iterdir()).unlink()
        raise OSError("the disk went away")

    with monkeypatch.context() as broken:
        broken.setattr("shutil.rmtree", fail)
        rig.store.deletion.revision("support", 1, unused)
    assert first.revision not in rig.revisions()
    assert rig.grow(value=1.0).revision == first.revision
    assert first.revision is not None
    path = rig.store.revision_path(first.revision)
    assert len(list(path.iterdir())) == 3
    rig.reopen()
    assert not any(name.startswith(".") for name in rig.revisions())


def test_pruning_keeps_the_newest_and_the_protected(rig: Rig) -> None:
    """Revisions are counted, not stages; what went is returned by number."""
    for _ in range(5):
        rig.grow()
    rig.fail()
    rig.store.chains.set_label("support", "stable", 2)
    gone = rig.store.deletion.prune("support", 2, unused)
    assert [stage.number for stage in gone] == [1, 3]
    assert all(stage.revision_deleted_at is not None for stage in gone)
    assert remaining(rig) == [2, 4, 5]
    assert rig.store.deletion.prune("support", 9, unused) == []
    assert [stage.number for stage in rig.store.deletion.prune("support", 0, unused)] == [4]
    with pytest.raises(ChainNotFound):
        rig.store.deletion.prune("nobody", 1, unused)


def test_a_deleted_chain_is_gone_with_its_head_and_labels(rig: Rig) -> None:
    """Its revisions go, its stages can still be looked up by id."""
    first = rig.grow()
    rig.grow()
    rig.store.deletion.revision("support", 1, unused)
    rig.store.chains.set_label("support", "stable", 2)
    rig.fail()
    gone = rig.store.deletion.chain("support", unused)
    assert [stage.number for stage in gone] == [2]
    assert rig.store.chains.list() == []
    assert rig.revisions() == set()
    assert rig.store.stages.get(first.id).metrics == {"loss": 1.5}
    with pytest.raises(ChainNotFound):
        rig.store.deletion.chain("support", unused)
    rig.add()
    assert rig.store.chains.get("support").labels == {}


def test_a_chain_with_an_unfinished_stage_stays(rig: Rig) -> None:
    """Cancel first: nothing trains for a name that is gone."""
    rig.grow()
    rig.add()
    with pytest.raises(RevisionProtected, match=r"its stage 2 is queued\. Cancel it first"):
        rig.store.deletion.chain("support", unused)
    assert remaining(rig) == [1]


def test_a_chain_in_use_stays(rig: Rig) -> None:
    """Also where the revision in use is not the head."""
    first = rig.grow()
    rig.grow()
    with pytest.raises(RevisionProtected, match="a request is using support@1"):
        rig.store.deletion.chain("support", lambda revision: revision == first.revision)
    assert remaining(rig) == [1, 2]


def test_a_stage_that_is_added_while_its_chain_is_deleted_is_not_lost(rig: Rig) -> None:
    """Either the chain stays for it, or it begins the chain anew; it never waits without one."""
    for turn in range(10):
        chain = f"chain-{turn}"
        rig.grow(chain)
        request = rig.request(chain)
        gate = threading.Barrier(2)
        refused: list[str] = []

        def delete(chain: str = chain, gate: Any = gate, refused: Any = refused) -> None:
            gate.wait()
            try:
                rig.store.deletion.chain(chain, unused)
            except RevisionProtected as error:
                refused.append(str(error))

        thread = threading.Thread(target=delete)
        thread.start()
        gate.wait()
        stage = rig.store.stages.add(request, None)
        thread.join()
        assert rig.store.chains.get(chain).head == (1 if refused else None)
        claimed = rig.claim()
        assert claimed.id == stage.id
        rig.store.stages.fail(stage.id, claimed.fence, FAULT)


def test_a_stage_that_is_added_inside_a_deletion_is_seen(rig: Rig) -> None:
    """The unfinished stages are looked at under the lock that adding one takes."""
    rig.grow()
    request = rig.request()
    added = threading.Event()

    def add() -> None:
        rig.store.stages.add(request, None)
        added.set()

    thread = threading.Thread(target=add)

    def in_use(_revision: str) -> bool:
        thread.start()
        assert not added.wait(0.05)  # it has to wait for the deletion
        return False

    rig.store.deletion.chain("support", in_use)
    thread.join()
    assert rig.store.chains.get("support").head is None
    assert rig.claim().parent is None
