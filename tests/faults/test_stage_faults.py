"""A full disk, a loss that is no number, data with nothing to learn: typed, and nothing is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.errors import DataError, StorageFull
from adapters.lineage import Stage
from adapters.states import StageState
from tests.faults.conftest import quick_or_slow
from tests.faults.injector import NEED_ROOM, Dead, FullDisk, Injector
from tests.faults.invariants import all_stages, check
from tests.faults.runs import Undisturbed
from tests.faults.stages import (
    CHAIN,
    SETTINGS,
    Tools,
    newest,
    opened,
    outcome,
    prepare,
    queue,
    run_here,
)

STRIDE = 8


def fill(tools: Tools, directory: Path, at: int, times: int | None) -> None:
    """Begin or go on, the disk being full from step ``at`` on, for so many steps."""
    with Injector(at, FullDisk(times)).installed(), suppress(StorageFull, Dead):  # noqa: SIM117
        with opened(tools, directory) as store:
            run_here(tools, store)


def fill_for_a_moment(
    tools: Tools, undisturbed: Undisturbed, places: Iterable[int], home: Path
) -> None:
    """A step finds no room, those before and after it do: paused by that name, or not stopped."""
    for at in places:
        where = f"at step {at} of {undisturbed.steps}"
        directory = undisturbed.copy(home / str(at))
        fill(tools, directory, at, 1)
        with opened(tools, directory) as store:
            check(store)
            stage = newest(store)
            if stage.error is None:
                assert stage.state in (StageState.SUCCEEDED, StageState.QUEUED), where
                continue
            assert (stage.state, stage.error.code) == (StageState.PAUSED, "storage_full"), where
            assert store.chains.get(CHAIN).head == 1, where
            assert store.revision_count() == 1, where
            store.stages.transition(stage.id, StageState.QUEUED)
            assert outcome(run_here(tools, store)) == undisturbed.outcome, where


def places(undisturbed: Undisturbed, first: int) -> list[int]:
    """Every STRIDE-th step that needs room, from the ``first`` of them on."""
    found = [at for at, step in enumerate(undisturbed.steps, start=1) if step in NEED_ROOM]
    return found[first - 1 :: STRIDE]


def writing_the_adapter(undisturbed: Undisturbed) -> range:
    """The steps of writing the adapter beside the revisions: a directory, two files, a name."""
    first = len(undisturbed.steps) - undisturbed.steps[::-1].index("mkdir")
    return range(first, first + 6)


@pytest.mark.parametrize("first", quick_or_slow(STRIDE, quick=(3, 6)))
def test_a_disk_that_stays_full_publishes_nothing_half(
    first: int, tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """From whichever step on: after a restart with room the stage has its end or goes on to it."""
    for at in places(undisturbed, first):
        where = f"from step {at} of {undisturbed.steps}"
        directory = undisturbed.copy(tmp_path / str(at))
        fill(tools, directory, at, None)
        with opened(tools, directory) as store:
            check(store)
            published = newest(store).state is StageState.SUCCEEDED
            assert store.chains.get(CHAIN).head == (2 if published else 1), where
            assert outcome(run_here(tools, store)) == undisturbed.outcome, where


@pytest.mark.parametrize("first", quick_or_slow(STRIDE, quick=(1, 4)))
def test_a_disk_that_is_full_for_a_moment_pauses_the_stage_by_name(
    first: int, tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """``storage_full`` in its row, the parent still the head, nothing half-written; it is resumed
    and ends bit-equal to an undisturbed one."""
    found = set(places(undisturbed, first)) - set(writing_the_adapter(undisturbed))
    fill_for_a_moment(tools, undisturbed, sorted(found), tmp_path)


def test_an_adapter_that_finds_no_room_pauses_the_stage_by_name(
    tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The same where the trained adapter is written, before it is published."""
    fill_for_a_moment(tools, undisturbed, writing_the_adapter(undisturbed), tmp_path)


def test_after_a_full_disk_the_chain_goes_on(
    tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """A later stage waits for the one that is paused, and starts from what it learned."""
    directory = undisturbed.copy(tmp_path / "data")
    with opened(tools, directory) as store:
        at = undisturbed.steps.index("replace") - undisturbed.steps.index("COMMIT")
        with Injector(at, FullDisk(1)).installed():
            stopped = run_here(tools, store)
        assert stopped.state is StageState.PAUSED
        queue(tools, store)
        assert run_here(tools, store).state is StageState.QUEUED
        store.stages.transition(stopped.id, StageState.QUEUED)
        stage = run_here(tools, store)
        assert outcome(store.stages.get(stopped.id)) == undisturbed.outcome
        assert (stage.state, stage.number) == (StageState.SUCCEEDED, 3)
        assert stage.parent == undisturbed.outcome["revision"]
    with opened(tools, directory) as store:
        check(store)


def diverge(tools: Tools, directory: Path, iters: int, learning_rate: float) -> Stage:
    """A stage whose learning rate is far too high, at its end; the chain goes on afterwards."""
    settings = dataclasses.replace(
        SETTINGS, iters=iters, learning_rate=learning_rate, warmup_steps=0, schedule="constant"
    )
    prepare(tools, directory, settings=settings)
    with opened(tools, directory) as store:
        stage = run_here(tools, store)
        assert stage.state is StageState.FAILED
        assert store.chains.get(CHAIN).head == 1
        assert store.revision_count() == 1
        queue(tools, store)
        assert run_here(tools, store).state is StageState.SUCCEEDED
    with opened(tools, directory) as store:
        check(store)
    return stage


@pytest.mark.parametrize("learning_rate", [1e38, 1e30])
def test_a_loss_that_is_no_number_fails_the_stage_by_name(
    learning_rate: float, tools: Tools, tmp_path: Path
) -> None:
    """``non_finite``, whether a parameter or the next step's loss shows it; the head stays."""
    stage = diverge(tools, tmp_path / "data", 6, learning_rate)
    assert stage.error is not None
    assert stage.error.code == "non_finite", stage.error


@pytest.mark.parametrize(("iters", "learning_rate"), [(1, 1e20), (2, 1e16)])
def test_a_figure_that_is_no_number_fails_the_stage_by_name(
    iters: int, learning_rate: float, tools: Tools, tmp_path: Path
) -> None:
    """``non_finite`` also where only the validation loss after the last step shows it."""
    stage = diverge(tools, tmp_path / "data", iters, learning_rate)
    assert stage.error is not None
    assert stage.error.code == "non_finite", stage.error


def test_rows_with_nothing_to_learn_are_refused_with_their_lines(
    tools: Tools, tmp_path: Path
) -> None:
    """At intake: no stage, no number, and every such line is named."""
    silent = {
        "messages": [
            {"role": "user", "content": "salt"},
            {"role": "assistant", "content": "tlas", "weight": 0},
        ]
    }
    spoken = {"messages": [silent["messages"][0], {"role": "assistant", "content": "tlas"}]}
    with opened(tools, tmp_path / "data") as store:
        with pytest.raises(DataError) as caught:
            queue(tools, store, rows=[silent, spoken, silent])
        assert [fault.line for fault in caught.value.faults] == [1, 3]
        assert all_stages(store) == []
        assert store.chains.list() == []
        check(store)
