"""A stage ends in mid-air, at each step towards the disk: it finishes, to the same bits."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import quick_or_slow
from tests.faults.injector import Dead, ending
from tests.faults.invariants import check
from tests.faults.runs import Undisturbed, go_on
from tests.faults.stages import Tools, figures, newest, opened, run_here

STRIDE = 8


def die(tools: Tools, directory: Path, at: int, how: str) -> None:
    """Begin or go on, and end before step ``at``."""
    with suppress(Dead), ending(at, root=directory, how=how, kills=False):  # noqa: SIM117
        with opened(tools, directory) as store:
            run_here(tools, store)


def sweep(
    first: int, odd: str, even: str, tools: Tools, undisturbed: Undisturbed, place: Path
) -> None:
    """Every STRIDE-th step from ``first`` on, each from a fresh directory."""
    for at in range(first, len(undisturbed.steps) + 1, STRIDE):
        how = odd if (at - first) // STRIDE % 2 else even
        directory = undisturbed.copy(place / str(at))
        die(tools, directory, at, how)
        go_on(tools, undisturbed, directory, f"{how} before step {at} of {undisturbed.steps}")


@pytest.mark.parametrize("first", quick_or_slow(STRIDE, quick=(2, 5, 7)))
def test_a_stage_that_died_anywhere_finishes_bit_equal(
    first: int, tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Of every step: one revision, the undisturbed one; the head is the parent until it is there.

    The process ends at every second step, the power fails at the others.
    """
    sweep(first, "kill", "power", tools, undisturbed, tmp_path)


@pytest.mark.parametrize("first", quick_or_slow(STRIDE, quick=()))
def test_a_stage_that_died_anywhere_the_other_way_finishes_bit_equal(
    first: int, tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The power fails where the process ended, and the other way round."""
    sweep(first, "power", "kill", tools, undisturbed, tmp_path)


def test_a_stage_that_dies_again_and_again_finishes_bit_equal(
    tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """A little later at each attempt: what was kept is gone on from, and never begun anew."""
    directory = undisturbed.copy(tmp_path / "data")
    reached = []
    for at in range(20, 30):
        die(tools, directory, at, "power")
        with opened(tools, directory) as store:
            check(store)
            kept = store.checkpoints.newest_first(newest(store).id)
            reached.append(6 if newest(store).state.is_final else kept[0][0] if kept else 0)
    assert reached == sorted(reached)
    assert reached[-1] == 6
    go_on(tools, undisturbed, directory, "at the end")


def test_the_figures_of_a_stage_do_not_depend_on_its_interruptions(
    tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Loss and trained tokens are those of the undisturbed run."""
    steps = undisturbed.steps
    for at in (len(steps) - 3, 29):
        directory = undisturbed.copy(tmp_path / str(at))
        die(tools, directory, at, "kill")
        with opened(tools, directory) as store:
            assert figures(run_here(tools, store)) == undisturbed.figures
