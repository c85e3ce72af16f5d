"""The real thing: SIGKILL in the middle of a stage, in a process with all its threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import quick_or_slow
from tests.faults.invariants import check
from tests.faults.runs import Undisturbed, attempt, go_on
from tests.faults.stages import Tools, newest, opened

KILLED = -9
STRIDE = 12


def kill(tools: Tools, directory: Path, at: int, how: str = "kill") -> None:
    """Begin or go on in a process of its own, which is killed before step ``at``."""
    with attempt(tools, directory, at, how) as process:
        said, _ = process.communicate()
    assert (process.returncode, said) == (KILLED, "ready\n")


def test_a_killed_stage_finishes_bit_equal(
    tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Killed in a checkpoint, killed again before the revision is in place, then left alone."""
    directory = undisturbed.copy(tmp_path / "data")
    kill(tools, directory, undisturbed.steps.index("replace") + 1)
    with opened(tools, directory) as store:
        check(store)
        assert store.checkpoints.newest_first(newest(store).id) == []
    last_name = len(undisturbed.steps) - undisturbed.steps[::-1].index("rename")
    kill(tools, directory, last_name - 2)
    with opened(tools, directory) as store:
        check(store)
        assert store.checkpoints.newest_first(newest(store).id)[0][0] == 6
    go_on(tools, undisturbed, directory, "after two kills")


@pytest.mark.parametrize("first", quick_or_slow(STRIDE, quick=()))
def test_a_stage_that_was_killed_anywhere_finishes_bit_equal(
    first: int, tools: Tools, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Before each of its steps; every second time what was not synced is lost too."""
    for at in range(first, len(undisturbed.steps) + 1, STRIDE):
        directory = undisturbed.copy(tmp_path / str(at))
        how = ("kill", "power")[at // STRIDE % 2]
        kill(tools, directory, at, how)
        go_on(tools, undisturbed, directory, f"{how} before step {at} of {undisturbed.steps}")
