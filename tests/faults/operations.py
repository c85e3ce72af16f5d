"""Everything that a store is asked to change, each on the same data directory.

Imports no MLX, so that a process may be forked for every step at which it ends.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from adapters.chain_record import ChainRecord
from adapters.errors import ChainExists, ChainNotFound, DatasetNotFound, RevisionNotFound
from adapters.formats.files import sync
from adapters.lineage import (
    Dataset,
    Fault,
    Idempotency,
    Origin,
    Stage,
    StageRequest,
    TrainSettings,
)
from adapters.shape import LoraShape
from adapters.states import StageState
from adapters.store import Store
from adapters.store.archive import Arrived

BASE = "b" * 64
SHAPE = LoraShape(rank=1, scale=2.0, num_layers=1, keys=("mlp.up_proj",))
UNUSED_ROWS = '{"text": "unused"}\n'
UNUSED = hashlib.sha256(UNUSED_ROWS.encode()).hexdigest()
READY = "ready"
"""Beside the data directory: adapter directories, each called by its revision id."""

Operation = Callable[[Store, Path], None]


def open_store(directory: Path) -> Store:
    """The store of a data directory; its clock stands still."""
    return Store(directory, clock=lambda: 1_800_000_000.0, base=BASE)


def _claim(store: Store, chain: str) -> Stage | None:
    """The queued stage of a chain, running; None where it has ended before."""
    while (stage := store.claim()) is not None:
        if stage.chain == chain:
            return stage
    return None


def _take(store: Store, ready: Path, name: str) -> Path:
    """An adapter directory that was written for publication."""
    directory = store.revision_temp()
    shutil.copytree(ready / name, directory)
    for each in (*directory.iterdir(), directory, directory.parent):
        sync(each)
    return directory


def _keep(store: Store, stage: Stage, step: int) -> None:
    file = store.checkpoints.directory(stage.id) / f"step-{step}.safetensors"
    part = file.with_name(".part")
    part.write_text(f"{step}" * 100)
    sync(part)
    part.replace(file)
    sync(file.parent)
    store.checkpoints.add(stage.id, stage.fence, step, file.name)


def publish(store: Store, ready: Path) -> None:
    """End the stage of ``support`` with a revision."""
    stage = _claim(store, "support")
    if stage is None:
        return
    store.stages.transition(stage.id, StageState.EVALUATING, fence=stage.fence)
    [revision] = (path.name for path in ready.glob("*"))
    store.chains.publish(
        stage.id,
        stage.fence,
        revision,
        _take(store, ready, revision),
        shape=SHAPE,
        manifest={"revision": revision},
        metrics={"loss": 1.0},
    )


def bring_in(store: Store, ready: Path) -> None:
    """Begin a chain with an adapter from elsewhere."""
    [revision] = (path.name for path in ready.glob("*"))
    with suppress(ChainExists):
        store.chains.import_revision(
            "imported",
            _take(store, ready, revision),
            revision,
            shape=SHAPE,
            manifest={"revision": revision},
            origin=Origin.IMPORTED,
        )


def fork(store: Store, _ready: Path) -> None:
    """Begin a chain with another's revision."""
    with suppress(ChainExists):
        store.chains.fork("support", "forked", 1)


def open_chain(store: Store, ready: Path) -> None:
    """Take a chain of two stages from elsewhere: one revision, one data set, a label."""
    [revision] = (path.name for path in ready.glob("*"))
    folder = store.incoming()
    folder.mkdir()
    shutil.copytree(ready / revision, folder / revision)
    rows = '{"text": "brought"}\n'
    (folder / "rows").write_text(rows)
    dataset = Dataset(hashlib.sha256(rows.encode()).hexdigest(), len(rows), 1, 1.0)
    ended = partial(Stage, chain="opened", base=BASE, origin=Origin.TRAINED, created_at=1.0)
    request = StageRequest("opened", dataset.id, TrainSettings(iters=1))
    stages = (
        ended(id="a", number=1, state=StageState.CANCELLED, request=request),
        ended(
            id="b", number=2, state=StageState.SUCCEEDED, request=request, revision=revision,
            shape=SHAPE,
        ),
    )  # fmt: skip
    record = ChainRecord("opened", BASE, 1.0, 2, 1, 2, {"old": 2}, stages)
    arrived = Arrived({revision: (folder / revision, {})}, [(dataset, folder / "rows")])
    with suppress(ChainExists):
        store.archive.restore(record, arrived)
    shutil.rmtree(folder)


def add_checkpoint(store: Store, _ready: Path) -> None:
    """Keep a third checkpoint of the stage of ``other``; the first goes."""
    stage = _claim(store, "other")
    assert stage is not None
    _keep(store, stage, 3)


def first_checkpoint(store: Store, _ready: Path) -> None:
    """Keep the first checkpoint of the stage of ``support``."""
    stage = _claim(store, "support")
    assert stage is not None
    _keep(store, stage, 1)


def fail(store: Store, _ready: Path) -> None:
    """End the stage of ``other``, which has checkpoints, without a revision."""
    stage = _claim(store, "other")
    if stage is not None:
        store.stages.fail(stage.id, stage.fence, Fault("non_finite", "The loss is NaN."))


def add_stage(store: Store, _ready: Path) -> None:
    """Queue a stage under a key."""
    dataset = store.datasets.list(after=None, limit=1).data[0]
    request = StageRequest("new", dataset.id, TrainSettings(iters=1))
    store.stages.add(request, Idempotency("/admin/stages", "key", "digest"))


def add_dataset(store: Store, _ready: Path) -> None:
    """Keep an upload."""
    file = store.incoming()
    file.write_text('{"text": "new"}\n' * 50)
    store.datasets.add(file, rows=50, name="new")


def delete_dataset(store: Store, _ready: Path) -> None:
    """Delete a data set that nothing needs."""
    with suppress(DatasetNotFound):
        store.datasets.delete(UNUSED)


def delete_revision(store: Store, _ready: Path) -> None:
    """Delete one that is nobody's head."""
    with suppress(RevisionNotFound):
        store.deletion.revision("support", 2, lambda _: False)


def prune(store: Store, _ready: Path) -> None:
    """Keep the newest revision only; the first is shared with ``beta`` and stays there."""
    store.deletion.prune("support", 1, lambda _: False)


def delete_chain(store: Store, _ready: Path) -> None:
    """Delete a chain with two revisions, one of them shared."""
    with suppress(ChainNotFound):
        store.deletion.chain("beta", lambda _: False)


def nothing(_store: Store, _ready: Path) -> None:
    """Opening the directory is all."""


OPERATIONS: dict[str, Operation] = {
    each.__name__: each
    for each in (
        publish,
        bring_in,
        fork,
        open_chain,
        first_checkpoint,
        add_checkpoint,
        fail,
        add_stage,
        add_dataset,
        delete_dataset,
        delete_revision,
        prune,
        delete_chain,
        nothing,
    )
}
