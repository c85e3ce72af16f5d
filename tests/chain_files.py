"""A chain file without a model, and the same file made anew with something else in it."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import AdapterError, AdapterFileError
from adapters.formats.chain_manifest import MANIFEST
from adapters.formats.stored_zip import Member, directory_of, header_of
from adapters.lineage import Chain
from adapters.pins import Pins
from adapters.shape import BaseShape
from adapters.shape import Target as Module
from adapters.stages.archives import ArchiveService
from adapters.store import Store
from tests.adapters.store.rig import Rig, unused
from tests.faults.invariants import check, picture

TOY = BaseShape(
    {"model_type": "toy", "num_hidden_layers": 1, "hidden_size": 2},
    (Module("model.layers.0.mlp.up_proj", 0, 2, 3),),
    4,
)
"""The base that the adapters of ``tests.adapters.store.rig`` fit."""

Json = dict[str, Any]


def service(store: Store, *, base: BaseShape = TOY, pins: Pins | None = None) -> ArchiveService:
    """What the admin routes reach."""
    return ArchiveService(store, lambda: base, pins or Pins())


def grown(rig: Rig) -> None:
    """``support``: stages 1 (labelled), 2 (deleted), 3 (failed), 4 (cancelled), 5 (the head)."""
    rig.grow()
    rig.grow()
    rig.fail()
    rig.cancel()
    rig.grow(dataset=rig.dataset('{"text": "b"}\n'))
    rig.store.chains.set_label("support", "old", 1)
    rig.store.deletion.revision("support", 2, unused)


def packed(rig: Rig, chain: str = "support", *, with_data: bool = True) -> bytes:
    """The chain's file."""
    package = service(rig.store).pack(chain, with_data=with_data)
    data = package.path.read_bytes()
    package.path.unlink()
    return data


def opened(rig: Rig, data: bytes, name: str | None = None, *, base: BaseShape = TOY) -> Chain:
    """Open a chain file as the route does."""
    archives = service(rig.store, base=base)
    folder = archives.incoming()
    (folder / "The file").write_bytes(data)
    try:
        return archives.bring_in(folder / "The file", name)[0]
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Target:
    """A machine that chain files are sent to."""

    rig: Rig

    def refusal(
        self, data: bytes, kind: type[AdapterError] = AdapterFileError, *, base: BaseShape = TOY
    ) -> str:
        """Why a file is refused; whatever was there is there, and nothing else."""
        before = picture(self.rig.store)
        with pytest.raises(kind) as caught:
            opened(self.rig, data, base=base)
        check(self.rig.store)
        assert picture(self.rig.store) == before
        assert str(self.rig.directory) not in str(caught.value)
        return str(caught.value)


@dataclass(frozen=True, slots=True)
class Parts:
    """A chain file taken apart: its manifest, and the bytes of every other member by name."""

    manifest: Json
    members: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Parts:
        """Read by Python's own zip."""
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return cls(json.loads(members.pop(MANIFEST)), members)

    def changed(self, change: Callable[[Json], object]) -> bytes:
        """The file with another manifest, sound in every other way."""
        manifest = copy.deepcopy(self.manifest)
        change(manifest)
        return assembled(json.dumps(manifest).encode(), self.members)

    def with_members(self, changes: Mapping[str, bytes]) -> bytes:
        """The file with other bytes in some members, and a manifest that agrees."""
        members = {**self.members, **changes}
        rows = [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
        ]
        manifest = {**self.manifest, "members": rows}
        return assembled(json.dumps(manifest).encode(), members)

    def named(self, suffix: str) -> str:
        """The first member that ends so."""
        return next(name for name in self.members if name.endswith(suffix))


def assembled(manifest: bytes, members: Mapping[str, bytes]) -> bytes:
    """An archive in the one form that there is."""
    raw, rows = b"", []
    for name, data in {MANIFEST: manifest, **members}.items():
        rows.append(Member(name, len(data), zlib.crc32(data)))
        raw += header_of(rows[-1]) + data
    return raw + directory_of(rows)
