"""An undisturbed stage, one that is disturbed, and what both must come to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.states import StageState
from tests.faults.injector import ending
from tests.faults.invariants import all_stages, check
from tests.faults.stages import (
    CHAIN,
    Tools,
    figures,
    newest,
    opened,
    outcome,
    prepare,
    run_here,
)

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Undisturbed:
    """A data directory with a queued stage, and what becomes of it when nothing happens."""

    directory: Path
    steps: list[str]
    outcome: dict[str, Any]
    figures: dict[str, Any]

    @classmethod
    def make(cls, tools: Tools, home: Path) -> Undisturbed:
        """Run the stage in a copy."""
        prepare(tools, home / "queued")
        done = home / "done"
        shutil.copytree(home / "queued", done)
        with (
            ending(None, root=done, how="power", kills=False) as injector,
            opened(tools, done) as store,
        ):
            stage = run_here(tools, store)
        if stage.state is not StageState.SUCCEEDED:
            raise RuntimeError(f"the undisturbed stage failed: {stage.error}")
        steps = injector.steps[:-1]  # the last one is a look for another stage
        return cls(home / "queued", steps, outcome(stage), figures(stage))

    def copy(self, place: Path) -> Path:
        """A data directory of one's own."""
        shutil.copytree(self.directory, place)
        return place


def go_on(tools: Tools, undisturbed: Undisturbed, directory: Path, where: str) -> None:
    """Look at what is there, run to the end, and look again."""
    with ending(None, root=directory, how="kill", kills=False), opened(tools, directory) as store:
        check(store)
        chain = store.chains.get(CHAIN)
        assert chain.head == (2 if newest(store).state.is_final else 1), where
        run_here(tools, store)
        assert outcome(newest(store)) == undisturbed.outcome, where
    with opened(tools, directory) as store:
        check(store)
        assert len(all_stages(store)) == store.revision_count() == 2, where
        assert store.chains.get(CHAIN).head_revision == undisturbed.outcome["revision"], where


def attempt(tools: Tools, directory: Path, at: int | None, how: str) -> subprocess.Popen[str]:
    """A process of its own that works on the stage and ends before its ``at``-th step.

    It writes a line when it is about to begin, and one when the stage has ended.
    """
    order = {
        "model": str(tools.model),
        "adapter": str(tools.adapter),
        "directory": str(directory),
        "at": at,
        "how": how,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.child", json.dumps(order)],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
