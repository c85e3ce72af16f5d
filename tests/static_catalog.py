"""The names of one base and a fixed set of adapters, each a chain with a head and no stages."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from server.core.errors import UnknownModel
from server.core.names import ModelName, parse
from server.core.ports import Model, Target


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """A chain that was given at start: its name, its one revision, where it came from.

    ``created`` is Unix seconds; ``root`` is shown in ``/v1/models``.
    """

    chain: str
    revision: str
    created: int
    root: str | None = None


class StaticCatalog:
    """A Catalog whose names never change. May be used from any thread.

    A pin is counted by revision, so that whoever wants to unload one can see whether it is in use.
    """

    def __init__(self, base: Model, adapters: Sequence[NamedAdapter] = ()) -> None:
        self._base = base
        self._adapters = {adapter.chain: adapter for adapter in adapters}
        self._pins: Counter[str] = Counter()
        self._lock = threading.Lock()
        if len(self._adapters) != len(adapters):
            raise ValueError("two adapters have the same name; give each its own")

    def models(self, *, pins: bool = False) -> Sequence[Model]:
        """The base, then the adapters in the order in which they were given."""
        heads = (
            Model(
                id=str(ModelName(self._base.id, adapter.chain)),
                created=adapter.created,
                parent=self._base.id,
                root=adapter.root,
            )
            for adapter in self._adapters.values()
        )
        return (self._base, *heads)

    def model(self, name: str) -> Model:
        """The row of one name."""
        with self.pin(name) as target:
            return next(model for model in self.models() if model.id == target.name)

    @contextmanager
    def pin(self, name: str) -> Iterator[Target]:
        """Resolve ``name`` and count its revision as in use while the context is open."""
        parsed = parse(name, served_name=self._base.id)
        if parsed.chain is None:
            yield Target(name=str(parsed), flow="", revision=None)
            return
        revision = self._head(parsed).revision
        with self._lock:
            self._pins[revision] += 1
        try:
            yield Target(name=str(parsed), flow=parsed.chain, revision=revision)
        finally:
            with self._lock:
                self._pins[revision] -= 1
                if not self._pins[revision]:
                    del self._pins[revision]

    def pinned(self) -> dict[str, int]:
        """How many contexts are open on each revision that is in use."""
        with self._lock:
            return dict(self._pins)

    def _head(self, name: ModelName) -> NamedAdapter:
        adapter = self._adapters.get(name.chain or "")
        if adapter is None:
            raise UnknownModel(
                f"The model '{name}' does not exist: {name.base!r} has no chain {name.chain!r}. "
                "GET /v1/models lists every name.",
                param="model",
            )
        if name.stage is not None or name.label is not None:
            raise UnknownModel(
                f"The model '{name}' does not exist: {name.chain!r} is a directory that was given "
                f"at start and has neither stages nor labels. Use '{name.base}:{name.chain}'.",
                param="model",
            )
        return adapter
