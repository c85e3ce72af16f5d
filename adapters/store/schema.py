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
    # To version 3: files, by which others than data sets hold the bytes of a data set.
    """
-- Whether somebody put it there as a data set; 0 where only files have its bytes.
ALTER TABLE datasets ADD COLUMN listed INTEGER NOT NULL DEFAULT 1;
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    dataset TEXT NOT NULL REFERENCES datasets (id),
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX files_of_dataset ON files (dataset);
CREATE VIEW needed_datasets AS
SELECT json_extract(request, '$.' || field.value) AS id, stages.id AS stage, base
FROM stages JOIN json_each('["dataset", "validation"]') AS field
WHERE state IN ('validating', 'queued', 'running', 'paused', 'evaluating', 'held')
AND json_extract(request, '$.' || field.value) IS NOT NULL;
-- All that /v1/files shows: uploads, data sets, and what finished stages measured.
CREATE VIEW all_files AS
SELECT files.id, filename, purpose, nbytes, files.created_at, expires_at, dataset, NULL AS stage,
    NULL AS base, 1 AS listed
FROM files JOIN datasets ON datasets.id = dataset
UNION ALL
SELECT 'file-' || id, coalesce(name, id || '.jsonl'), 'fine-tune', nbytes, created_at, NULL, id,
    NULL, NULL, listed
FROM datasets
UNION ALL
SELECT 'file-results-' || id, 'results-' || id || '.csv', 'fine-tune-results', 0, finished_at, NULL,
    NULL, id, base, 1
FROM stages WHERE origin = 'trained' AND state IN ('held', 'succeeded');
""",
    # To version 4: the chains that a job's epochs became are found without a look at all others.
    "CREATE INDEX stages_of_checkpoint ON stages (json_extract(record, '$.checkpoint_of'));",
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
