"""The contract on pure code says yes and no in the right places."""

from __future__ import annotations

import pytest
from grimp import ImportGraph

from scripts.contracts import PureContract, is_pure

OPTIONS = {
    "pure": ["server.core", "adapters"],
    "impure": ["adapters.store"],
    "exceptions": ["adapters -> adapters.store.open"],
}


def is_kept(importer: str, imported: str) -> bool:
    """Whether a tree with this one import keeps the contract."""
    graph = ImportGraph()
    graph.add_module(importer)
    graph.add_module(imported)
    graph.add_import(importer=importer, imported=imported)
    contract = PureContract("pure", {}, OPTIONS)
    return contract.check(graph, verbose=False).kept


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("server.core.names", "re"),
        ("server.core.names", "server.core.errors"),
        ("adapters.shape", "adapters.errors"),
        ("adapters.store.files", "sqlite3"),
        ("server.engine.worker", "mlx"),
        ("adapters", "adapters.store.open"),
    ],
)
def test_what_the_layers_allow_is_kept(importer: str, imported: str) -> None:
    """Standard library, pure neighbours, impure code's own business, and the named exception."""
    assert is_kept(importer, imported)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("server.core.names", "pydantic"),
        ("server.core.names", "server.engine"),
        ("server.core.names", "adapters.errors"),
        ("adapters.shape", "adapters.store.files"),
        ("adapters.shape", "sqlite3"),
        ("adapters.a_module_that_nobody_listed", "mlx"),
    ],
)
def test_what_would_make_pure_code_impure_breaks_the_contract(importer: str, imported: str) -> None:
    """Third parties, impure neighbours, the other package, and the standard library's I/O."""
    assert not is_kept(importer, imported)


def test_the_longest_prefix_decides_and_parts_of_names_do_not() -> None:
    """``adapters.storeroom`` is not in ``adapters.store``."""
    lists = {"pure": ["adapters", "adapters.store.rules"], "impure": ["adapters.store"]}
    assert is_pure("adapters.storeroom", **lists)
    assert not is_pure("adapters.store.files", **lists)
    assert is_pure("adapters.store.rules", **lists)
    assert not is_pure("server.app", **lists)
