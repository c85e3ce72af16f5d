"""Reads adapters into host memory beside the device thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from adapters.errors import AdapterError
from adapters.formats.mlx_lm import AdapterFiles
from server.engine.device import AdapterSource, Shapes, shapes_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that is in host memory and fits the base."""

    revision: str
    files: AdapterFiles


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """An adapter that cannot be served; ``reason`` says why."""

    revision: str
    reason: str


Tell = Callable[[Loaded | LoadFailed], None]
"""Takes a loader's outcome; called on its threads."""


class AdapterLoader:
    """Loads each wanted revision once, however many rows wait for it.

    ``want`` and ``drop`` belong to the device thread; ``tell`` is called on a loader thread.
    """

    def __init__(
        self,
        source: AdapterSource,
        check: Callable[[Shapes], None],
        tell: Tell,
    ) -> None:
        self._source = source
        self._check = check
        self._tell = tell
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="adapter-loader")
        self._loading: set[str] = set()

    @property
    def loading(self) -> Collection[str]:
        """The revisions whose outcome has not been taken yet."""
        return self._loading

    def want(self, revision: str) -> None:
        """Start loading, unless that is under way."""
        if revision not in self._loading:
            self._loading.add(revision)
            self._pool.submit(self._load, revision)

    def drop(self, revision: str) -> None:
        """Its outcome has been taken; the next ``want`` loads again."""
        self._loading.discard(revision)

    def close(self) -> None:
        """Start nothing further and wait for the files being read."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, revision: str) -> None:
        try:
            files = self._source.read(revision)
            self._check(shapes_of(files))
        except (AdapterError, OSError, MemoryError) as error:
            self._tell(LoadFailed(revision, str(error) or type(error).__name__))
        except Exception as error:
            # Whatever it is: rows that nobody tells would wait for ever.
            log.exception("reading revision %s failed", revision)
            why = f"The adapter could not be read ({type(error).__name__}: {error}); see the log."
            self._tell(LoadFailed(revision, why))
        else:
            self._tell(Loaded(revision, files))
