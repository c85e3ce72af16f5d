"""The schema: how a database is made, and brought from one version to the next."""

from __future__ import annotations

import logging
import sqlite3
from importlib.resources import files
from pathlib import Path

from adapters.errors import StoreError
from adapters.states import TRANSITIONS

log = logging.getLogger(__name__)

STEPS: tuple[str, ...] = (
    # To version 2: what waits or runs is found without a look at all that has ended.
    "CREATE INDEX stages_of_state ON stages (state);",
)
"""From each version to the next: ``schema.sql`` makes version 1, and is never changed again.

A new database takes the same steps. The table of transitions is written anew with every one.
"""

VERSION = 1 + len(STEPS)
"""Of the schema; a database of a later version is refused."""


def bring_up_to_date(connection: sqlite3.Connection, file: Path) -> None:
    """Make the tables, or take the steps that an older database lacks: all in one transaction.

    A crash, or a full disk, leaves what was there before. Raises StoreError for a later version.
    """
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise StoreError(
            f"{file} was written by a later version of chainlora (schema {found}, this one knows "
            f"{VERSION}). Use that version, or another data directory."
        )
    if found == VERSION:
        return
    schema = "" if found else files("adapters.store").joinpath("schema.sql").read_text()
    steps = "\n".join((schema, *STEPS[max(found - 1, 0) :]))
    pairs = [(source, target) for source, nexts in TRANSITIONS.items() for target in nexts]
    # executescript ends a transaction before it begins, never after: the script opens the one that
    # holds everything, the version too.
    connection.executescript(f"BEGIN IMMEDIATE;\n{steps}")
    connection.execute("DELETE FROM transitions")
    connection.executemany("INSERT INTO transitions VALUES (?, ?)", pairs)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    if found:
        log.info("%s was brought from schema %d to %d", file, found, VERSION)
