"""A sound chain file to be spoiled, and the machine that it is sent to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.store.rig import opened, unsynced
from tests.chain_files import Parts, Target, grown, packed


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A chain file that has everything: a deleted revision, a failure, a label, two data sets."""
    with unsynced(), opened(tmp_path_factory.mktemp("packed") / "data") as rig:
        grown(rig)
        return packed(rig)


@pytest.fixture(scope="module")
def parts(sound: bytes, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The sound file, to be made anew."""
    path: Path = tmp_path_factory.mktemp("parts") / "a.chain"
    path.write_bytes(sound)
    return Parts.of(path)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Another machine, with a chain of its own."""
    with unsynced(), opened(tmp_path_factory.mktemp("target") / "data") as rig:
        rig.grow("own", 77.0)
        yield Target(rig)
