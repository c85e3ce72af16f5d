"""What the admin routes can do with adapters from and for elsewhere, on the real store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from adapters.errors import AdapterFileError, ChainExists, ChainNotFound
from adapters.formats import mlx_lm, peft
from adapters.formats.files import read_bytes
from adapters.formats.foreign import FORMATS, Format, Told, Wanted, says_peft
from adapters.formats.oldest import Heads
from adapters.lineage import Stage
from adapters.shape import BaseShape
from adapters.stages.exports import Package, package
from adapters.stages.imports import begin, read_arrival
from adapters.stages.intake import pin_of
from adapters.store import Store

_MOST_CONFIG_BYTES = 1 << 20


class TransferService:
    """Implements ``server.api.admin.ports.Transfers``."""

    def __init__(self, store: Store, base: Callable[[], BaseShape]) -> None:
        self._store = store
        self._base = base

    def incoming(self, chain: str) -> Path:
        """A fresh directory for the files of a new chain's adapter; raises ChainExists."""
        try:
            self._store.chains.get(chain)
        except ChainNotFound:
            pass
        else:
            raise ChainExists(
                f"There is a chain {chain!r} already: an adapter from elsewhere can only begin "
                "one. Choose another name, or delete it first.",
                param="chain",
            )
        folder = self._store.incoming()
        folder.mkdir()
        return folder

    def bring_in(
        self,
        chain: str,
        file: Path,
        config: Path | None,
        *,
        scale: float | None,
        num_layers: int | None,
    ) -> Stage:
        """Begin ``chain`` with the received files, whose content says what format they are."""
        base = self._base()
        told = Told(scale, num_layers, Heads.of(base.config))
        folder = file.parent
        try:
            arrival = read_arrival(_named(file, config), told)
            return begin(self._store, chain, arrival, base)
        except AdapterFileError as error:
            # The client's files have no such path.
            text = str(error).replace(f"{folder}/", "").replace(str(folder), "the adapter")
            raise AdapterFileError(text, param=error.param) from None

    def package(
        self,
        chain: str,
        revision: str | None,
        form: str,
        *,
        fold_scale: float | None,
        base_model: str | None,
    ) -> Package:
        """One revision as a file; None is the head."""
        if form not in FORMATS:
            raise AdapterFileError(f"There is no format {form!a}; there are {', '.join(FORMATS)}.")
        pin = None if revision is None else pin_of(revision)
        wanted = Wanted(fold_scale, base_model, self._store.base)
        return package(self._store, chain, pin, cast(Format, form), wanted)


def _named(file: Path, config: Path | None) -> Path:
    """The received files under the names that their format gives them; what to read."""
    folder = file.parent
    if config is None:
        return file.rename(folder / "adapter.npz")
    theirs = says_peft(read_bytes(config, most=_MOST_CONFIG_BYTES))
    file.rename(folder / (peft.WEIGHTS if theirs else mlx_lm.WEIGHTS))
    config.rename(folder / mlx_lm.CONFIG)
    return folder
