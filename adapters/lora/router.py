"""The routed layer and the switchboard that the layers of one model share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from adapters.errors import AdapterMismatch
from adapters.lora.resident import ResidentAdapter
from adapters.lora.routes import (
    BareRoute,
    GatherRoute,
    Mixture,
    Route,
    Row,
    UniformRoute,
)
from adapters.lora.targets import linear_shape

_SMALL_MIXTURE = 64
"""Columns that a mixture may hold without need: rebuilding would cost more than they do."""


class RoutedLinear(Module):
    """A linear layer of the base whose rows may each add a low-rank update.

    The base product runs once for all rows. A forward outside ``Router.routing`` raises
    RuntimeError, because its rows could silently be answered by the base.
    """

    def __init__(self, linear: Module, path: str, router: Router) -> None:
        begin: Any = super().__init__
        begin()
        self.linear = linear
        self._path = path
        self._router = router

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, in) -> (rows, length, out)."""
        route = self._router.route
        if route is None:
            raise RuntimeError(f"{self._path}: a forward without a route")
        return route.add(self._path, x, self.linear(x))


class Router:
    """Puts routed layers where resident adapters need them and routes each forward's rows.

    Device thread only, except ``check``. Modules that no resident adapter targets keep the bare
    layer.
    """

    def __init__(self, model: Module) -> None:
        self._model: Any = model
        modules: Any = model.named_modules
        self._linears: dict[str, Any] = {
            path: module for path, module in modules() if linear_shape(module)
        }
        self.shapes: Mapping[str, tuple[int, int]] = {
            path: shape
            for path, module in self._linears.items()
            if (shape := linear_shape(module)) is not None
        }
        self._uses: dict[str, int] = {}
        self._mixture = Mixture(())
        self.route: Route | None = None

    @property
    def routed_modules(self) -> int:
        """Number of modules that are wrapped now."""
        return len(self._uses)

    @property
    def mixture_nbytes(self) -> int:
        """Bytes of the present mixture's copies."""
        return self._mixture.nbytes

    def check(self, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        """Raise AdapterMismatch unless every (A, B) shape fits a linear layer of this base."""
        unknown = sorted(set(shapes) - set(self.shapes))
        if unknown:
            match = "no" if len(unknown) == len(shapes) else "not every"
            raise AdapterMismatch(
                f"The adapter does not fit this base: {match} module matches. This base has no "
                f"linear layer {unknown[0]!r} ({len(unknown)} of {len(shapes)} modules unknown). "
                "Train the adapter on this base, or serve the base that it was trained on."
            )
        for path, (a, b) in shapes.items():
            rows, columns = self.shapes[path]
            if a[0] != rows or b[-1] != columns:
                raise AdapterMismatch(
                    f"The adapter does not fit this base: {path} maps {rows} to {columns} "
                    f"features, but lora_a is {a} and lora_b is {b}."
                )

    def attach(self, adapter: ResidentAdapter) -> None:
        """Make the modules of ``adapter`` routable."""
        for path in adapter.modules:
            if path not in self._uses:
                self._replace(path, RoutedLinear(self._linears[path], path, self))
            self._uses[path] = self._uses.get(path, 0) + 1

    def detach(self, adapter: ResidentAdapter) -> None:
        """Forget ``adapter``; modules that no other adapter needs get their bare layer back."""
        for path in adapter.modules:
            self._uses[path] -= 1
            if not self._uses[path]:
                del self._uses[path]
                self._replace(path, self._linears[path])
        if adapter in self._mixture.adapters:
            self._mixture = Mixture(())

    def plan(self, rows: Sequence[Row]) -> Route:
        """The cheapest route for these rows."""
        distinct = list(dict.fromkeys(rows))
        if distinct in ([], [None]):
            return BareRoute()
        if len(distinct) == 1 and distinct[0] is not None:
            return UniformRoute(distinct[0])
        return GatherRoute(rows, self._mix([row for row in distinct if row is not None]))

    @contextmanager
    def routing(self, route: Route) -> Iterator[None]:
        """Every forward that is built inside uses ``route``."""
        self.route = route
        try:
            yield
        finally:
            self.route = None

    def _mix(self, needed: list[ResidentAdapter]) -> Mixture:
        """A mixture that holds ``needed``; kept while it is not much wider than that."""
        present = self._mixture
        room = max(_SMALL_MIXTURE, 2 * sum(adapter.rank for adapter in needed))
        missing = [adapter for adapter in needed if adapter not in present.adapters]
        if missing:
            joined = Mixture((*present.adapters, *missing))
            self._mixture = joined if joined.rank <= room else Mixture(needed)
        elif present.rank > room:
            self._mixture = Mixture(needed)
        return self._mixture

    def _replace(self, path: str, module: Module) -> None:
        parent: Any = self._model
        *names, last = path.split(".")
        for name in names:
            parent = parent[int(name)] if isinstance(parent, list) else getattr(parent, name)
        setattr(parent, last, module)
