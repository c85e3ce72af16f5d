"""A directory that appears whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import StorageFull
from adapters.formats.new_directory import new_directory


def _write(path: Path, *, then: BaseException | None = None, rival: bool = False) -> None:
    with new_directory(path) as part:
        (part / "file").write_text("ours")
        if rival:
            path.mkdir()
        if then is not None:
            raise then


def test_what_was_filled_is_there_under_its_name(tmp_path: Path) -> None:
    """Its parents are made, and others may read it."""
    _write(tmp_path / "a" / "out")
    assert (tmp_path / "a" / "out" / "file").read_text() == "ours"
    assert (tmp_path / "a" / "out").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_a_directory_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Whoever made it first has it."""
    with pytest.raises(FileExistsError):
        _write(tmp_path / "out", rival=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("wrong"), OSError(5, "I/O"), KeyboardInterrupt()])
def test_an_error_passes_through_and_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    """As it was raised; Ctrl-C too."""
    with pytest.raises(type(error)) as raised:
        _write(tmp_path / "out", then=error)
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """Whatever the block made of it."""
    with pytest.raises(StorageFull, match="the disk is full"):
        _write(tmp_path / "out", then=RuntimeError("[write] Unable to write 9 bytes to file."))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """With the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/out cannot be made \(File exists\): give a place"):
        _write(tmp_path / "file" / "out")
