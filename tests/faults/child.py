"""One attempt at a stage as a server makes it: a device thread, a runner thread, a real disk.

Started by ``tests.faults.runs.attempt`` with its order as JSON.
"""

from __future__ import annotations

import adapters  # noqa: F401  # opens the BLAS, which must precede every import of mlx

# isort: split
import json
import sys
import threading
from pathlib import Path

from adapters.base.load import load_base
from tests.faults.injector import ending
from tests.faults.stages import Tools, newest, opened, run_in_thread
from tests.training_rig import ThreadDevice, linears_of


def say(word: str) -> None:
    """Tell whoever started this."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    """Open the directory, work on what is queued, and end as ordered, or when it has ended."""
    order = json.loads(sys.argv[1])
    model, directory = Path(order["model"]), Path(order["directory"])
    with ThreadDevice(lambda: load_base(model)) as device:
        linears = device.run(linears_of)
        tools = Tools.load(model, Path(order["adapter"]), device, linears)
        ended = threading.Event()
        say("ready")
        with (
            ending(order["at"], root=directory, how=order["how"], kills=True, syncs=True),
            opened(tools, directory) as store,
        ):
            runner = run_in_thread(tools, store, ended.set)
            if not newest(store).state.is_final:
                ended.wait()
            runner.stop()
            say(str(newest(store).state))


if __name__ == "__main__":
    main()
