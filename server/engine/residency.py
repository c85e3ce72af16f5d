"""Gets the adapters that waiting rows want onto the device, off the hot path."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from adapters.errors import AdapterTooLarge
from adapters.lora import AdapterBank, ResidentAdapter
from adapters.lora.bank import device_nbytes
from server.engine.loader import AdapterLoader, Loaded


class Residency:
    """Bank and loader together; device thread only.

    A wanted adapter is read by the loader, kept in host memory, and committed between two steps
    once the bank has room. Adapters that are resident and wanted are not evicted for it, as long as
    the queue lets their rows start first.
    """

    def __init__(self, bank: AdapterBank, loader: AdapterLoader) -> None:
        self._bank = bank
        self._loader = loader
        self._in_host: dict[str, Loaded] = {}
        self._unwanted: set[str] = set()

    @property
    def has_loaded(self) -> bool:
        """Whether a revision in host memory waits to be committed."""
        return bool(self._in_host)

    def ready(self, revision: str | None) -> bool:
        """Whether a row of ``revision`` may start; the bare base always may."""
        return revision is None or revision in self._bank

    def crowded_out(self, revision: str | None) -> bool:
        """Whether a revision is in host memory and waits for room on the device."""
        return revision in self._in_host

    def want(self, revisions: Iterable[str | None]) -> None:
        """Start loading what is neither resident nor on its way."""
        for revision in revisions:
            if not self.ready(revision) and revision not in self._in_host:
                self._loader.want(str(revision))

    def arrived(self, loaded: Loaded) -> None:
        """The loader has read and checked a revision."""
        self._loader.drop(loaded.revision)
        self._in_host[loaded.revision] = loaded

    def failed(self, revision: str) -> None:
        """The loader gave a revision up; the next row that wants it tries again."""
        self._loader.drop(revision)

    def commit(self, wanted: Collection[str | None], keep: Collection[str]) -> dict[str, str]:
        """Make loaded revisions resident, first wanted first, as far as the bank has room.

        ``wanted`` are the revisions of all waiting rows; a loaded revision outside it is let go.
        No revision in ``keep`` is evicted. Returns the revisions that can never fit, with the
        reason.
        """
        self._in_host = {key: each for key, each in self._in_host.items() if key in wanted}
        refused: dict[str, str] = {}
        for revision, loaded in list(self._in_host.items()):
            size = device_nbytes(loaded.files, self._bank.dtype)
            if size <= self._bank.budget_bytes and not self._bank.fits(size, keep=keep):
                break
            del self._in_host[revision]
            try:
                self._bank.commit(revision, loaded.files, keep=keep)
            except AdapterTooLarge as error:
                refused[revision] = str(error)
        return refused

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

    def _drop_unwanted(self) -> None:
        for revision in [each for each in self._unwanted if not self._bank.is_used(each)]:
            self._unwanted.discard(revision)
            self._in_host.pop(revision, None)
            if revision in self._bank:
                self._bank.evict(revision)
