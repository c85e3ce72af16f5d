"""How ``chain pack`` puts a file in its place: never over something, links or not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from server.archive_cli import put_in_place


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_put_in_place_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """A memory stick knows no links: the file is renamed there."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    received, out = tmp_path / "received", tmp_path / "out.chain"
    received.write_text("new")
    put_in_place(received, out)
    assert out.read_text() == "new"
    again = tmp_path / "again"
    again.write_text("newer")
    (tmp_path / "link.chain").symlink_to("nowhere")
    for taken in (out, tmp_path / "link.chain"):
        with pytest.raises(FileExistsError):
            put_in_place(again, taken)
    assert out.read_text() == "new"
    assert (tmp_path / "link.chain").is_symlink()
