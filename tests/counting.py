"""How much work something is, as a number that no clock enters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from adapters.store.database import Database


def calls(act: Callable[[], object]) -> int:
    """The functions that ``act`` calls on this thread, those written in C included."""
    count = 0

    def seen(frame: object, event: str, argument: Any) -> None:
        nonlocal count
        del frame, argument
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


def database_steps(database: Database, act: Callable[[], object]) -> int:
    """The instructions of SQLite's virtual machine that ``act`` takes, on both connections."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connections = (database._reader, database._writer)
    for connection in connections:
        connection.set_progress_handler(step, 1)
    try:
        act()
    finally:
        for connection in connections:
            connection.set_progress_handler(None, 0)
    return count
