"""The names of one base and of every chain in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from adapters.errors import ChainNotFound, RevisionNotFound
from adapters.lineage import Chain
from adapters.pins import Pins
from adapters.store import Store
from server.core.errors import UnknownModel
from server.core.names import ModelName, parse
from server.core.ports import Model, Target


class ChainCatalog:
    """Implements ``server.core.ports.Catalog``. May be used from any thread.

    A pin is counted by revision while it is resolved, under the lock that deletions take, so that
    no revision disappears between the two.
    """

    def __init__(self, base: Model, store: Store, pins: Pins) -> None:
        self._base = base
        self._store = store
        self._pins = pins

    def models(self, *, pins: bool = False) -> Sequence[Model]:
        """The base, then each chain's head and labels; with ``pins`` also every stage's pin.

        Two queries, however many there are. A revision whose files are missing is left out.
        """
        found = [self._base]
        chains, present = self._store.chains.list(), self._store.chains.present()
        for chain in chains:
            there = present.get(chain.name, ())
            if chain.head is not None and chain.head in there:
                found.append(self._row(chain, ModelName(self._base.id, chain.name), chain.head))
            for label, number in sorted(chain.labels.items()):
                if number in there:
                    name = ModelName(self._base.id, chain.name, label=label)
                    found.append(self._row(chain, name, number))
            for number in there if pins else ():
                name = ModelName(self._base.id, chain.name, stage=number)
                found.append(self._row(chain, name, number))
        return found

    def model(self, name: str) -> Model:
        """The row of one name, listed or a pin; raises UnknownModel or TwoAdapters."""
        parsed = parse(name, served_name=self._base.id)
        if parsed.chain is None:
            return self._base
        number = self._resolve(parsed)[0]
        return self._row(self._store.chains.get(parsed.chain), parsed, number)

    @contextmanager
    def pin(self, name: str) -> Iterator[Target]:
        """Resolve ``name`` and keep its revision from deletion while the context is open."""
        parsed = parse(name, served_name=self._base.id)
        if parsed.chain is None:
            yield Target(name=str(parsed), flow="", revision=None)
            return
        with self._pins.pin(lambda: self._resolve(parsed)[1]) as revision:
            yield Target(name=str(parsed), flow=parsed.chain, revision=revision)

    def _resolve(self, name: ModelName) -> tuple[int, str]:
        """Stage number and revision id; an unknown name says why, and what there is."""
        pin = name.stage if name.stage is not None else name.label
        try:
            stage = self._store.chains.resolve(str(name.chain), pin)
        except ChainNotFound:
            raise UnknownModel(
                f"The model '{name}' does not exist: {name.base!r} has no chain {name.chain!r}. "
                "GET /v1/models lists every name.",
                param="model",
            ) from None
        except RevisionNotFound as error:
            raise UnknownModel(
                f"The model '{name}' does not exist: {error}", param="model"
            ) from None
        return stage.number, str(stage.revision)

    def _row(self, chain: Chain, name: ModelName, number: int) -> Model:
        root = ModelName(self._base.id, chain.name, stage=number)
        created = int(chain.created_at)
        return Model(id=str(name), created=created, parent=self._base.id, root=str(root))
