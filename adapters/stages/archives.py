"""Whole chains to and from one file, on the real store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from adapters.chain_record import ChainRecord
from adapters.errors import AdapterFileError, AdapterMismatch, DataError, DatasetNotFound
from adapters.formats.chain_file import ChainFile, Sources, write_chain_file
from adapters.formats.chain_manifest import (
    MANIFEST,
    BaseWords,
    Content,
    dataset_name,
    refusal,
    revision_name,
)
from adapters.formats.files import read_bytes
from adapters.formats.foreign import Notes
from adapters.formats.mlx_lm import WEIGHTS, AdapterFiles, read_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Chain, Dataset, Json, Stage
from adapters.pins import Pins
from adapters.shape import BaseShape
from adapters.stages.exports import Package
from adapters.stages.imports import Arrival, fitted
from adapters.stages.revisions import read_revision
from adapters.store import Store
from adapters.store.archive import Arrived
from adapters.store.database import translated
from adapters.strict_json import BadJson, parse_object
from adapters.training.dataset import check_dataset

log = logging.getLogger(__name__)

_MOST_MANIFEST_BYTES = 1 << 20


class ArchiveService:
    """Implements ``server.api.admin.ports.Archives``."""

    def __init__(self, store: Store, base: Callable[[], BaseShape], pins: Pins) -> None:
        self._store = store
        self._base = base
        self._pins = pins

    def incoming(self) -> Path:
        """A fresh directory for a chain file."""
        folder = self._store.incoming()
        folder.mkdir()
        return folder

    def pack(self, chain: str, *, with_data: bool) -> Package:
        """The chain as a new file on the store's disk, each revision compared with its id."""
        store, path = self._store, self._store.incoming()
        with self._held(chain) as (record, unfinished):
            for revision in record.revisions:
                read_revision(store, revision)
            datasets = tuple(self._datasets(record)) if with_data else ()
            content = Content(_words(store.base, self._base()), record, datasets)
            try:
                with translated(path):
                    sources = Sources(store.revision_path, store.datasets.path)
                    write_chain_file(path, content, sources)
            except FileNotFoundError as error:
                raise DatasetNotFound(
                    f"{error.filename} was deleted while it was packed; pack the chain again."
                ) from None
        notes = [
            f"Stage {stage.number} is {stage.state} and stays behind: pack again when it has ended."
            for stage in unfinished
        ]
        gone = len(record.datasets) - len(datasets)
        if with_data and gone:
            notes.append(f"{gone} of {len(record.datasets)} data sets were deleted before.")
        return Package(path, f"{chain}.chain", tuple(notes))

    def bring_in(self, file: Path, name: str | None) -> tuple[Chain, Sequence[Stage]]:
        """Open a received file, which lies in a directory that ``incoming`` gave."""
        folder = file.parent
        try:
            with translated(folder):
                record, arrived = self._checked(file, name)
                chain = self._store.archive.restore(record, arrived)
        except AdapterFileError as error:
            # The client's file has no such path.
            raise AdapterFileError(str(error).replace(f"{folder}/", ""), param="file") from None
        log.info("opened the chain %s: %d stages", chain.name, len(record.stages))
        return chain, self._store.chains.stages(chain.name)

    @contextmanager
    def _held(self, chain: str) -> Iterator[tuple[ChainRecord, Sequence[Stage]]]:
        """The lineage, whose revisions are in use meanwhile, so that none is deleted."""
        with ExitStack() as pins:

            def hold(record: ChainRecord) -> None:
                for revision in record.revisions:
                    pins.enter_context(self._pins.pin(partial(str, revision)))

            yield self._store.archive.record(chain, hold)

    def _datasets(self, record: ChainRecord) -> Iterator[Dataset]:
        """Those that are still there."""
        for dataset in record.datasets:
            try:
                yield self._store.datasets.get(dataset)
            except DatasetNotFound:
                continue

    def _checked(self, file: Path, name: str | None) -> tuple[ChainRecord, Arrived]:
        """What the file holds, unpacked beside it and checked in full; nothing is stored yet."""
        base, fingerprint = self._base(), self._store.base
        with ChainFile(file) as packed:
            content = packed.content
            if content.base.fingerprint != fingerprint:
                raise AdapterMismatch(
                    f"The chain was packed on another base ({content.base}) than this server's "
                    f"({_words(fingerprint, base)}). Serve that base to open it.",
                    param="file",
                )
            record = content.record if name is None else _renamed(content.record, name)
            self._store.archive.refuse_taken(record.name)
            folder = file.parent / "unpacked"
            packed.unpack(folder)
        revisions = {
            revision: _revision(file, folder / revision_name(revision), record, revision, base)
            for revision in record.revisions
        }
        datasets = [
            (each, _rows(file, folder / dataset_name(each.id), each)) for each in content.datasets
        ]
        return record, Arrived(revisions, datasets)


def _words(fingerprint: str, base: BaseShape) -> BaseWords:
    """A base as its own configuration describes it."""
    nested = base.config.get("text_config")
    config = {**base.config, **(nested if isinstance(nested, dict) else {})}
    kind, blocks, width = (
        config.get(key) for key in ("model_type", "num_hidden_layers", "hidden_size")
    )
    return BaseWords(
        fingerprint=fingerprint,
        model_type=kind[:64] if isinstance(kind, str) else None,
        blocks=blocks if isinstance(blocks, int) else None,
        hidden_size=width if isinstance(width, int) else None,
    )


def _renamed(record: ChainRecord, name: str) -> ChainRecord:
    stages = tuple(replace(stage, chain=name) for stage in record.stages)
    return replace(record, name=name, stages=stages)


def _revision(
    file: Path, directory: Path, record: ChainRecord, revision: str, base: BaseShape
) -> tuple[Path, Json]:
    """An unpacked revision with its manifest: sound, what its id says, and one of this base."""
    files = read_adapter(directory)
    if revision_id(files) != revision:
        raise refusal(file, f"revisions/{revision} holds another adapter than its id says")
    for stage in record.holders(revision):
        _check_shape(file, directory, files, stage, base)
    try:
        raw = read_bytes(directory / MANIFEST, most=_MOST_MANIFEST_BYTES)
        return directory, parse_object(raw)
    except BadJson as error:
        raise refusal(file, f"revisions/{revision}/{MANIFEST} {error}") from None


def _check_shape(
    file: Path, directory: Path, files: AdapterFiles, stage: Stage, base: BaseShape
) -> None:
    """Whether a stage's shape, which a next stage inherits, is that of its tensors."""
    shape = stage.shape or files.shape
    where = f"the shape of stage {stage.number} is not that of its revision"
    if shape.scale != files.scale:
        raise refusal(file, f"{where}: scale {shape.scale:g}, not {files.scale:g}")
    if misfits := shape.misfits(files.targets):
        raise refusal(file, f"{where}: {misfits[0]}")
    notes = Notes("mlx-lm", directory / WEIGHTS, (), stage.base)
    name = f"The revision of stage {stage.number}"
    fitted(Arrival(name, replace(files, shape=shape), notes, {}, True), base, stage.base)


def _rows(file: Path, rows: Path, dataset: Dataset) -> Path:
    """An unpacked data set, of which every line is a row that some stage could learn from."""
    try:
        found = check_dataset(rows)
    except DataError as error:
        raise refusal(file, f"{dataset_name(dataset.id)}: {error}") from None
    if found != dataset.rows:
        raise refusal(
            file, f"{dataset_name(dataset.id)} has {found} rows, its manifest says {dataset.rows}"
        )
    return rows
