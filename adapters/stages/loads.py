"""Adapters that a client names by their place on the operator's disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapters.errors import (
    AdapterFileError,
    AdapterPathNotFound,
    AlreadyLoaded,
    ChainExists,
    ChainNotFound,
    RevisionProtected,
)
from adapters.formats import mlx_lm
from adapters.formats.foreign import Told
from adapters.formats.oldest import Heads
from adapters.formats.revision import revision_id
from adapters.lineage import Stage
from adapters.shape import BaseShape
from adapters.stages.imports import Arrival, begin, fitted, read_arrival
from adapters.stages.service import ChainService
from adapters.store import Store

_DEEPEST = 4
_MOST_ENTRIES = 10_000
_SHOWN = 100
_LOADED = "loaded_from"
"""In a stage's record of its source: the path that the client named."""


class FoundAdapters:
    """What lies in the directories that may be loaded from.

    A client's text is compared with what a scan finds, and is never itself part of a path. Links
    are not followed, whatever they point to.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories

    def find(self, text: str) -> tuple[Path, Path]:
        """The adapter of that absolute path, or of that path below one of the directories; and
        the directory that holds it.

        Raises AdapterPathNotFound.
        """
        if not self._directories:
            raise AdapterPathNotFound(
                "This server loads no adapters by path: start it with --adapter-import-dirs DIR, "
                "or send the files to POST /admin/chains/{chain}/import.",
                param="lora_path",
            )
        wanted = text.removesuffix("/")
        found = [
            (path, root)
            for root in self._directories
            for path in _adapters(root)
            if wanted in (str(path), path.relative_to(root).as_posix())
        ]
        if not found:
            raise AdapterPathNotFound(
                f"There is no adapter {text[:_SHOWN]!a} in the directories that may be loaded from "
                "(adapter_import_dirs). Give its path below one of them, or its whole path; links "
                "are not followed.",
                param="lora_path",
            )
        if len(found) > 1:
            raise AdapterPathNotFound(
                f"{text[:_SHOWN]!a} lies in {len(found)} of the directories that may be loaded "
                "from; give its whole path.",
                param="lora_path",
            )
        return found[0]


class LoadService:
    """Implements ``server.api.admin.ports.Loads``."""

    def __init__(
        self,
        store: Store,
        base: Callable[[], BaseShape],
        chains: ChainService,
        adapters: FoundAdapters,
    ) -> None:
        self._store = store
        self._base = base
        self._chains = chains
        self._adapters = adapters

    def load(self, chain: str, path: str, *, again: bool) -> Stage:
        """Begin ``chain`` with an adapter on the operator's disk."""
        present = self._present(chain)
        if present is not None and not again:
            raise _already(chain)
        base = self._base()
        arrival = self._read(path, base)
        if present is not None:
            revision = revision_id(fitted(arrival, base, self._store.base))
            loaded = _as_loaded(present)
            if loaded is not None and loaded.revision == revision:
                return loaded
            self.unload(chain)
        try:
            return begin(self._store, chain, arrival, base)
        except ChainExists as error:  # two clients at once
            raise _already(chain) from error

    def unload(self, chain: str) -> None:
        """Delete a chain that is as it was loaded."""
        if _as_loaded(self._chains.get(chain)[1]) is None:
            raise RevisionProtected(
                f"The chain {chain!r} holds what cannot be loaded again: it was trained here, or "
                f"not loaded by path. If it shall go, DELETE /admin/chains/{chain}.",
                param="lora_name",
            )
        self._chains.delete(chain)

    def _present(self, chain: str) -> Sequence[Stage] | None:
        try:
            return self._chains.get(chain)[1]
        except ChainNotFound:
            return None

    def _read(self, text: str, base: BaseShape) -> Arrival:
        path, root = self._adapters.find(text)
        try:
            arrival = read_arrival(path, Told(heads=Heads.of(base.config)))
        except AdapterFileError as error:
            # Where the operator's directory lies is told to nobody who did not say it.
            raise AdapterFileError(str(error).replace(f"{root}/", ""), param="lora_path") from None
        return replace(arrival, source={**arrival.source, _LOADED: text})


def _already(chain: str) -> AlreadyLoaded:
    return AlreadyLoaded(
        f"The LoRA adapter {chain!r} is there already. Unload it first, load under another name, "
        "or say load_inplace: true to replace what was loaded.",
        param="lora_name",
    )


def _as_loaded(stages: Sequence[Stage]) -> Stage | None:
    """The one stage with a revision, where that was loaded by path; earlier ones may be deleted."""
    held = [each for each in stages if each.revision and each.revision_deleted_at is None]
    source = held[0].record.get("source") if len(held) == 1 else None
    return held[0] if isinstance(source, Mapping) and _LOADED in source else None


def _adapters(root: Path) -> Iterator[Path]:
    """Adapter directories and npz files below ``root``, as far as a scan is worth its time."""
    left = _MOST_ENTRIES
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            continue
        left -= len(entries)
        if left < 0:
            return
        for entry in entries:
            path = folder / entry.name
            if entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEEPEST:
                    waiting.append((path, depth + 1))
            elif entry.name == mlx_lm.CONFIG and folder != root:
                yield folder
            elif entry.name.endswith(".npz"):
                yield path
