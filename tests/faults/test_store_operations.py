"""The process ends, or the power fails, at every step of every change: all of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.formats.mlx_lm import write_adapter
from adapters.formats.revision import revision_id
from tests.adapters.store.rig import Rig, adapter, opened, unsynced
from tests.faults.invariants import check, picture
from tests.faults.operations import OPERATIONS, READY, UNUSED_ROWS, open_store

ROOT = Path(__file__).resolve().parents[2]
KILLED = -9
HOWS = ("kill", "power")


@dataclass
class Forks:
    """The process that does operations in children of its own."""

    process: subprocess.Popen[str]

    def perform(self, operation: str, directory: Path, at: int | None, how: str) -> dict[str, Any]:
        """How the child ended and, where it came to its end, its steps."""
        order = {"operation": operation, "directory": str(directory), "at": at, "how": how}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(order)}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """One for all tests here."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.forks"],
        cwd=ROOT,
        env=os.environ | {"CHAINLORA_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Forks(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``: two chains that share a revision, two stages that wait, one with checkpoints.

    ``ready``: an adapter to publish.
    """
    home = tmp_path_factory.mktemp("template")
    with unsynced(), opened(home / "data") as rig:
        for value in (1.0, 2.0, 3.0):
            rig.grow("support", value)
        rig.store.chains.set_label("support", "stable", 3)
        rig.store.chains.fork("support", "beta", 1)
        rig.grow("beta", 4.0)
        rig.dataset(UNUSED_ROWS)
        _wait_with_checkpoints(rig)
        rig.add("support")
    files = adapter(9.0)
    (home / READY).mkdir()
    write_adapter(home / READY / revision_id(files), files)
    return home


def _wait_with_checkpoints(rig: Rig) -> None:
    rig.add("other")
    stage = rig.claim()
    for step in (1, 2):
        rig.checkpoint(stage, step)


def copied(template: Path, place: Path) -> Path:
    """A data directory like the template's, with what is ready beside it."""
    shutil.copytree(template, place)
    return place / "data"


def seen(directory: Path) -> dict[str, Any]:
    """What a restart finds, once its invariants hold."""
    store = open_store(directory)
    try:
        check(store)
        return picture(store)
    finally:
        store.close()


@pytest.mark.parametrize("hows", [HOWS, pytest.param(HOWS[::-1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_a_change_is_done_or_not_wherever_it_is_cut_short(
    operation: str, hows: tuple[str, str], forks: Forks, template: Path, tmp_path: Path
) -> None:
    """After a restart the directory is as before or as after, and doing it again ends as after.

    The two ways to end take turns, step by step.
    """
    done = copied(template, tmp_path / "done")
    before = seen(done)
    whole = forks.perform(operation, done, None, hows[0])
    assert whole["status"] == 0
    after = seen(done)
    assert (before != after) == (operation != "nothing")
    assert whole["steps"]
    # Opening the directory comes first in all of them, and is an operation of its own.
    opening = 1 if operation == "nothing" else whole["steps"].index("COMMIT") + 2
    for at in range(opening, len(whole["steps"]) + 1):
        directory = copied(template, tmp_path / str(at))
        how = hows[at % 2]
        ended = forks.perform(operation, directory, at, how)
        where = f"{how} before step {at} of {whole['steps']}"
        assert ended["status"] == KILLED, where
        assert seen(directory) in (before, after), where
        assert forks.perform(operation, directory, None, how)["status"] == 0, where
        assert seen(directory) == after, where
        shutil.rmtree(directory.parent)


def test_a_first_start_may_end_anywhere(forks: Forks, tmp_path: Path) -> None:
    """The next one finds an empty store."""
    first = tmp_path / "first" / "data"
    first.mkdir(parents=True)
    steps = forks.perform("nothing", first, None, "power")["steps"]
    empty = seen(first)
    for at in range(1, len(steps) + 1):
        directory = tmp_path / str(at) / "data"
        directory.mkdir(parents=True)
        assert forks.perform("nothing", directory, at, "power")["status"] == KILLED
        assert seen(directory) == empty
