"""Kill a stage before every one of its writes, and at random moments; it must finish, bit-equal.

``python -m scripts.kill_test`` kills a process (SIGKILL) before each step towards the disk of one
small stage on the tiny model: each directory made, name given, file synced or removed, and each of
SQLite's commits. After each kill it opens the data directory as the next start does, looks at all
that is listed, runs the stage to its end and compares the revision with that of a run that nobody
disturbed. ``--how power`` also takes away what was not synced; ``--random N`` kills N times at
moments that nobody chose, which fall inside SQLite's and the system's own work as well, and goes on
in the same directory until the stage is done.
"""

from __future__ import annotations

import adapters  # noqa: F401  # opens the BLAS, which must precede every import of mlx

# isort: split
import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from adapters.base.load import load_base
from tests.faults.invariants import check
from tests.faults.runs import Undisturbed, attempt, go_on
from tests.faults.stages import Tools, newest, opened
from tests.models import _tiny
from tests.training_rig import InlineDevice, linears_of


def kill_at_every_step(tools: Tools, undisturbed: Undisturbed, home: Path, how: str) -> int:
    """How many steps there are; raises AssertionError where a kill did harm."""
    total = len(undisturbed.steps)
    for at, step in enumerate(undisturbed.steps, start=1):
        directory = undisturbed.copy(home / str(at))
        with attempt(tools, directory, at, how) as process:
            process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise AssertionError(f"the attempt was to die at step {at}, and did not")
        go_on(tools, undisturbed, directory, f"{how} before step {at} of {undisturbed.steps}")
        shutil.rmtree(directory)
        print(f"[{at}/{total}] {how} before {step}: finished, bit-equal", flush=True)
    return total


def kill_at_random(
    tools: Tools, undisturbed: Undisturbed, home: Path, kills: int, seed: int
) -> int:
    """How many stages were finished under ``kills`` kills; raises AssertionError as above."""
    draw = random.Random(seed)
    done = 0
    directory = undisturbed.copy(home / "0")
    for number in range(1, kills + 1):
        with attempt(tools, directory, None, "kill") as process:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise AssertionError("the attempt could not begin")
            time.sleep(draw.uniform(0.0, 0.6))
            process.kill()
            process.communicate()
        with opened(tools, directory) as store:
            check(store)
            stage = newest(store)
        print(f"[{number}/{kills}] {stage.state} at step {stage.progress.step}", flush=True)
        if stage.state.is_final or number == kills:
            go_on(tools, undisturbed, directory, f"after kill {number}, seed {seed}")
            shutil.rmtree(directory)
            done += 1
            directory = undisturbed.copy(home / str(number))
    return done


def main() -> int:
    """Run what was asked for; 1 where a kill did harm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--how", choices=("kill", "power"), default="kill")
    parser.add_argument("--random", type=int, metavar="N", help="kill N times at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    files = _tiny()
    base = load_base(files / "base")
    device = InlineDevice(base.model)
    tools = Tools.load(files / "base", files / "adapters" / "a4", device, linears_of(base.model))
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        undisturbed = Undisturbed.make(tools, home / "undisturbed")
        try:
            if arguments.random is None:
                count = kill_at_every_step(tools, undisturbed, home, arguments.how)
                print(f"killed before each of {count} steps: always one revision, bit-equal")
            else:
                count = kill_at_random(tools, undisturbed, home, arguments.random, arguments.seed)
                print(f"killed {arguments.random} times: {count} stages finished, bit-equal")
        except AssertionError as error:
            print(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
