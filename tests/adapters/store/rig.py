"""A store on a directory of its own, and the shortest ways to what its tests start from."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles, write_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Fault, Idempotency, Origin, Stage, StageRequest, TrainSettings
from adapters.shape import LoraShape
from adapters.states import StageState
from adapters.store import Store, database

BASE, OTHER_BASE = "b" * 64, "c" * 64
SHAPE = LoraShape(rank=1, scale=2.0, num_layers=1, keys=("mlp.up_proj",))
connect = database._connect
"""As a database is opened outside these tests."""
FAULT = Fault("non_finite", "The loss is NaN.")


class Clock:
    """Stands still until it is moved; Unix seconds."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def unused(_revision: str) -> bool:
    """No request uses anything."""
    return False


def adapter(value: float) -> AdapterFiles:
    """A tiny adapter; another value is another revision."""
    a = HostArray("F32", (2, 1), struct.pack("<2f", value, 1.0))
    b = HostArray("F32", (1, 3), struct.pack("<3f", value, 2.0, 3.0))
    return AdapterFiles(SHAPE, {"model.layers.0.mlp.up_proj": (a, b)})


def asked(digest: str = "d1", key: str = "key", route: str = "/admin/stages") -> Idempotency:
    """An Idempotency-Key with its body's digest."""
    return Idempotency(route, key, digest)


class Rig:
    """A store, its clock, and what many tests do with them."""

    def __init__(self, directory: Path, store: Store, clock: Clock) -> None:
        self.directory = directory
        self.store = store
        self.clock = clock
        self._values = 0

    def dataset(self, text: str = '{"text": "a"}\n') -> str:
        """The id of a data set with these bytes."""
        file = self.store.incoming()
        file.write_text(text)
        return self.store.datasets.add(file, rows=1, name=None).id

    def request(self, chain: str = "support", **changes: Any) -> StageRequest:
        """What a stage may be asked to do; its data set is there."""
        dataset = changes.pop("dataset", None) or self.dataset()
        return StageRequest(chain, dataset, TrainSettings(iters=1), **changes)

    def add(self, chain: str = "support", **changes: Any) -> Stage:
        """A queued stage."""
        return self.store.stages.add(self.request(chain, **changes), None)

    def claim(self) -> Stage:
        """The next stage, running."""
        stage = self.store.claim()
        assert stage is not None
        return stage

    def publish(self, stage: Stage, value: float | None = None) -> Stage:
        """End a running stage with a revision of its own, or with that of ``value``."""
        if value is None:
            self._values += 1
        files = adapter(float(self._values) if value is None else value)
        store = self.store
        store.stages.transition(stage.id, StageState.EVALUATING, fence=stage.fence)
        directory = store.revision_temp()
        write_adapter(directory, files)
        return store.chains.publish(
            stage.id,
            stage.fence,
            revision_id(files),
            directory,
            shape=files.shape,
            manifest={"format": "chainlora manifest 1"},
            metrics={"loss": 1.5},
        )

    def grow(self, chain: str = "support", value: float | None = None, **changes: Any) -> Stage:
        """One more stage of a chain, from its intake to its revision; nothing else is queued."""
        self.add(chain, **changes)
        return self.publish(self.claim(), value)

    def fail(self, chain: str = "support") -> Stage:
        """A stage that failed."""
        self.add(chain)
        stage = self.claim()
        return self.store.stages.fail(stage.id, stage.fence, FAULT)

    def cancel(self, chain: str = "support") -> Stage:
        """A stage that was cancelled before it ran."""
        return self.store.stages.transition(self.add(chain).id, StageState.CANCELLED)

    def bring_in(self, chain: str, value: float) -> Stage:
        """A chain that begins with an adapter from elsewhere."""
        files = adapter(value)
        directory = self.store.revision_temp()
        write_adapter(directory, files)
        return self.store.chains.import_revision(
            chain,
            directory,
            revision_id(files),
            shape=files.shape,
            manifest={},
            origin=Origin.IMPORTED,
        )

    def checkpoint(self, stage: Stage, step: int, *, kept: Collection[int] = ()) -> Path:
        """A checkpoint of a running stage, the file first."""
        name = f"step-{step}.safetensors"
        file = self.store.checkpoints.directory(stage.id) / name
        file.write_text(str(step))
        self.store.checkpoints.add(stage.id, stage.fence, step, name, kept=kept)
        return file

    def reopen(self, base: str = BASE) -> Store:
        """Close the store and open the directory again, as after a restart."""
        self.store.close()
        self.store = Store(self.directory, clock=self.clock, base=base)
        return self.store

    def revisions(self) -> set[str]:
        """What lies in ``revisions``, hidden names too."""
        return {path.name for path in (self.directory / "revisions").iterdir()}

    def sql(self, text: str, *values: object) -> None:
        """Write past every rule of the code."""
        with self.store._database.write() as connection:
            connection.execute(text, values)


@contextmanager
def unsynced() -> Iterator[None]:
    """Nothing waits for the disk meanwhile, which takes most of the time of such tests."""

    def connect_unsynced(file: Path) -> sqlite3.Connection:
        connection = connect(file)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    with (
        mock.patch.object(database, "_connect", connect_unsynced),
        mock.patch.object(os, "fsync", return_value=None),
    ):
        yield


@contextmanager
def opened(directory: Path) -> Iterator[Rig]:
    """A rig on ``directory``, closed at the end."""
    clock = Clock()
    rig = Rig(directory, Store(directory, clock=clock, base=BASE), clock)
    try:
        yield rig
    finally:
        rig.store.close()
