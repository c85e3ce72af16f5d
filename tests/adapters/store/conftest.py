"""A fresh store for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.store.rig import Rig, opened, unsynced


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk() -> Iterator[None]:
    """No test here cuts the power; ``tests/faults`` does."""
    with unsynced():
        yield


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on an empty data directory."""
    with opened(tmp_path / "data") as made:
        yield made
