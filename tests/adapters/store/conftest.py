"""A fresh store for each test."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.store import database
from tests.adapters.store.rig import Rig, connect, opened


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power (``tests/faults`` does), and syncs take most of the time."""

    def connect_unsynced(file: Path) -> sqlite3.Connection:
        connection = connect(file)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(database, "_connect", connect_unsynced)
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on an empty data directory."""
    with opened(tmp_path / "data") as made:
        yield made
