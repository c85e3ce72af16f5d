"""What the parts are made from: the adapters that were given at start, and where this runs from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from server import loading
from tests.adapters.store.rig import Rig, opened, unsynced


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on an empty data directory."""
    with unsynced(), opened(tmp_path / "data") as made:
        yield made


def test_a_chain_goes_on_without_the_directory_that_it_began_with(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has its adapter: the flag may stay where a service names it."""
    gone = tmp_path / "gone"
    assert not loading._goes_on(rig.store, "pirate", gone)
    rig.bring_in("pirate", 1.0)
    assert loading._goes_on(rig.store, "pirate", gone)
    assert f"{gone} is gone; the chain pirate goes on with what it began with" in caplog.text
    assert not loading._goes_on(rig.store, "pirate", tmp_path)


def test_a_chain_that_was_trained_here_does_not_stand_for_a_missing_adapter(
    rig: Rig, tmp_path: Path
) -> None:
    """Another adapter was meant: the start must say so, as without a chain of that name."""
    rig.grow("pirate")
    assert not loading._goes_on(rig.store, "pirate", tmp_path / "gone")


def test_a_build_record_can_be_made_from_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is installed under our name, serving still starts."""

    def missing(name: str) -> str:
        if name == "chainlora":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(loading, "version", missing)
    versions = loading._build_record()["versions"]
    assert versions["chainlora"] == "from a clone"
    assert versions["mlx"] == version("mlx")
