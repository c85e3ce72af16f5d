"""Revisions as files for elsewhere."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.errors import AdapterError
from adapters.formats.foreign import Format, Wanted, write_as
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lineage import Stage
from adapters.stages.revisions import read_revision
from adapters.store import Store
from adapters.store.chains import Pin

_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Package:
    """A written export: its file, the name to give it, and what its user should know."""

    path: Path
    name: str
    notes: tuple[str, ...]


def package(store: Store, chain: str, pin: Pin, form: Format, wanted: Wanted) -> Package:
    """Write a revision as one new file on the store's disk: an npz, or a zip of a directory.

    The caller removes it. Raises ChainNotFound, RevisionNotFound, and AdapterFileError where
    ``wanted`` cannot be had or the revision's files are damaged.
    """
    stage = store.chains.resolve(chain, pin)
    files = _read(store, chain, stage)
    path = store.incoming()
    name = f"{chain}-{stage.number}"
    if form == "npz":
        return Package(path, f"{name}.npz", write_as(form, files, path, wanted))
    folder = store.incoming()
    try:
        notes = write_as(form, files, folder, wanted)
        _zip(folder, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Package(path, f"{name}-{form}.zip", notes)


def _read(store: Store, chain: str, stage: Stage) -> AdapterFiles:
    try:
        files = read_revision(store, str(stage.revision))
    except AdapterError:
        store.chains.resolve(chain, stage.number)  # deleted since: it says when
        raise
    return files if stage.shape is None else replace(files, shape=stage.shape)


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(file.name, _EPOCH)
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member, 1 << 20)
