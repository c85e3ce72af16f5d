"""Gets the adapters that waiting rows want onto the device, off the hot path."""

from __future__ import annotations

from collections.abc import Callable, Collection

from adapters.lora import AdapterBank, ResidentAdapter
from adapters.lora.resident import Upload
from server.core.fair_queue import Standing
from server.engine.loader import AdapterLoader, Loaded

_MOST_COMING = 4
"""Adapters that are read or wait in host memory at a time: many cold chains must not fill it."""


class Residency:
    """Bank and loader together; device thread only.

    A wanted adapter is read by the loader, kept in host memory, and copied between steps once the
    bank has room. ``moved`` hears of every revision whose standing has changed.
    """

    def __init__(
        self, bank: AdapterBank, loader: AdapterLoader, moved: Callable[[str], None]
    ) -> None:
        self._bank = bank
        self._loader = loader
        self._moved = moved
        self._in_host: dict[str, Loaded] = {}
        self._upload: Upload | None = None
        self._unwanted: set[str] = set()

    def standing(self, revision: str | None) -> Standing:
        """Whether a row of ``revision`` may start; the bare base always may."""
        if revision is None or revision in self._bank:
            return Standing.READY
        return Standing.COMING if revision in self._coming() else Standing.COLD

    @property
    def has_loaded(self) -> bool:
        """Whether a revision in host memory is on its way to the device or waits for room there."""
        return bool(self._in_host) or self._upload is not None

    @property
    def is_copying(self) -> bool:
        """Whether a revision is on its way to the device."""
        return self._upload is not None

    @property
    def crowded(self) -> Collection[str]:
        """The revisions in host memory that wait for room on the device."""
        return self._in_host.keys()

    def want(self, next_cold: Callable[[], str | None]) -> None:
        """Read what is wanted next, as long as not too much is on its way."""
        while len(self._coming()) < _MOST_COMING and (revision := next_cold()) is not None:
            self._loader.want(revision)
            self._moved(revision)

    def arrived(self, loaded: Loaded, *, wanted: bool) -> None:
        """The loader has read and checked a revision; it is let go where nobody waits for it."""
        self._loader.drop(loaded.revision)
        if wanted:
            self._in_host[loaded.revision] = loaded

    def failed(self, revision: str) -> None:
        """The loader gave a revision up; the next row that wants it tries again."""
        self._loader.drop(revision)
        self._moved(revision)

    def drop(self, revision: str) -> None:
        """Nobody waits for a revision any more: what lies in host memory goes."""
        self._in_host.pop(revision, None)

    def begin(self, revision: str, keep: Collection[str]) -> bool:
        """Make room for a crowded revision and begin to copy it; False where there is none.

        No adapter in ``keep`` is evicted.
        """
        upload = Upload(revision, self._in_host[revision].files, self._bank.dtype)
        evicted = self._bank.reserve(upload.nbytes, keep=keep)
        if evicted is None:
            return False
        del self._in_host[revision]
        self._upload = upload
        for each in evicted:
            self._moved(each)
        return True

    def advance(self, nbytes: int) -> int:
        """Copy at least ``nbytes`` of the adapter that is on its way, or all; the bytes copied."""
        if self._upload is None:
            return 0
        copied = self._upload.advance(nbytes)
        if self._upload.is_whole:
            adapter, self._upload = self._upload.resident(), None
            self._bank.commit(adapter)
            self._moved(adapter.revision)
        return copied

    def acquire(self, revision: str | None) -> ResidentAdapter | None:
        """Take an adapter into use for one row."""
        return None if revision is None else self._bank.acquire(revision)

    def release(self, revision: str | None) -> None:
        """Give one row's use back."""
        if revision is not None:
            self._bank.release(revision)
            self._drop_unwanted()

    def forget(self, revision: str) -> None:
        """Nobody will ask for it again: free its memory once no row holds it."""
        self._unwanted.add(revision)
        self._drop_unwanted()

    def close(self) -> None:
        """Read nothing further, and wait for the files being read."""
        self._loader.close()

    def _coming(self) -> Collection[str]:
        uploading = () if self._upload is None else (self._upload.revision,)
        return {*self._loader.loading, *self._in_host, *uploading}

    def _drop_unwanted(self) -> None:
        for revision in [each for each in self._unwanted if not self._bank.is_used(each)]:
            self._unwanted.discard(revision)
            self._in_host.pop(revision, None)
            if revision in self._bank:
                self._bank.evict(revision)
            elif self._upload is not None and self._upload.revision == revision:
                self._bank.release_reserved(self._upload.nbytes)
                self._upload = None
            self._moved(revision)
