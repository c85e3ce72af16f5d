"""Looks at the files of every revision, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import read_adapter
from adapters.formats.revision import revision_id
from adapters.store.published import Published, published
from adapters.store.unavailable import cure, fault


@dataclass(frozen=True, slots=True)
class Lost:
    """A revision that cannot be served: its names, what is wrong with its files, what to do."""

    names: tuple[str, ...]
    what: str
    cure: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """How many revisions were looked at, and those of them that cannot be served."""

    count: int
    lost: Sequence[Lost]


def inspect(data_dir: Path, *, read: bool) -> Inspection:
    """Look for files that are missing or cut; with ``read`` also for a bit that changed.

    Raises StoreError for a database that cannot be read.
    """
    found = published(data_dir)
    faults = ((each, _fault(each, read=read)) for each in found)
    lost = [Lost(each.names, why, cure(each.directory)) for each, why in faults if why is not None]
    return Inspection(len(found), lost)


def _fault(each: Published, *, read: bool) -> str | None:
    what = fault(each.directory, each.nbytes)
    if what is not None or not read:
        return what
    try:
        files = read_adapter(each.directory)
    except (AdapterFileError, OSError) as error:
        return str(error)
    if revision_id(files) != each.directory.name:
        return "Its files are not what was published under that id."
    return None
