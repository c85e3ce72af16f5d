"""A process that forks one child for each step at which an operation is to end.

It reads one order a line from its input (JSON: operation, directory, at, how) and answers with how
the child ended and the steps that it began. Started with ``python -m tests.faults.forks``; it has
no thread and no MLX, so that forking is sound.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.faults.injector import ending
from tests.faults.operations import OPERATIONS, READY, open_store


def perform(order: dict[str, str], at: int | None) -> list[str]:
    """Open the directory and do the operation, which ends at step ``at``; the steps begun."""
    directory = Path(order["directory"])
    with ending(at, root=directory, how=order["how"], kills=True) as injector:
        store = open_store(directory)
        OPERATIONS[order["operation"]](store, directory.parent / READY)
        injector.end()
        store.close()
    return injector.steps


def main() -> None:
    """Answer orders until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                steps = perform(order, order["at"])
                os.write(writing, json.dumps(steps).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            steps = json.loads(pipe.read() or b"[]")
        _, status = os.waitpid(child, 0)
        answer = {"status": os.waitstatus_to_exitcode(status), "steps": steps}
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
