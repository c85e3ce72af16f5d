"""What a data directory has published, read beside the server that may own it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from adapters.store.database import translated
from adapters.store.layout import Layout


@dataclass(frozen=True, slots=True)
class Published:
    """A revision: the names that resolve to it (``support@3``), its directory, its bytes."""

    names: tuple[str, ...]
    directory: Path
    nbytes: int


def published(data_dir: Path) -> Sequence[Published]:
    """Every revision that is not deleted, of every base; none where there is no database yet.

    Changes nothing and needs no lock. Raises StoreError for a database that cannot be read.
    """
    layout = Layout(data_dir)
    if not layout.database.is_file():
        return []
    address = f"{layout.database.absolute().as_uri()}?mode=ro"
    with (
        translated(layout.database),
        closing(sqlite3.connect(address, uri=True, timeout=10)) as connection,
    ):
        rows = connection.execute(
            "SELECT revisions.id, nbytes, chain || '@' || number FROM revisions "
            "JOIN stages ON revision = revisions.id AND revision_deleted_at IS NULL "
            "ORDER BY seq"
        ).fetchall()
    names: dict[tuple[str, int], list[str]] = {}
    for revision, nbytes, name in rows:
        names.setdefault((revision, nbytes), []).append(name)
    return [
        Published(tuple(each), layout.revisions / revision, nbytes)
        for (revision, nbytes), each in names.items()
    ]
