"""One base for a module, one store for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.base.load import Base, load_base
from adapters.store import Store
from tests.adapters.stages.site import Site


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    """The tiny base."""
    return load_base(tiny_model)


@pytest.fixture
def site(tiny_model: Path, base: Base, tmp_path: Path) -> Iterator[Site]:
    """With an empty store."""
    store = Store(tmp_path, clock=lambda: 1.0, base="b" * 64)
    yield Site(store, base, tiny_model)
    store.close()
