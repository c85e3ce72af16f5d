"""Entries that are no plain files: links out of the directory, pipes that never end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import read_adapter
from tests.attacks.files.conftest import Victim


def test_a_symbolic_link_is_not_followed(victim: Victim, tmp_path: Path) -> None:
    """Neither to a sound file, nor to nothing, nor to itself, nor to a device."""
    real = tmp_path / "elsewhere"
    victim.weights.rename(real)
    for goal in (real, tmp_path / "nothing", victim.weights, Path(os.devnull)):
        victim.weights.symlink_to(goal)
        assert "it is a symbolic link" in victim.refusal()
        victim.weights.unlink()
    real.rename(victim.weights)
    victim.read()


def test_a_link_in_place_of_the_configuration_is_not_followed(victim: Victim) -> None:
    """The configuration's text comes back in error messages: it could show another file."""
    secret = victim.directory / "secret"
    victim.config.rename(secret)
    victim.config.symlink_to(secret)
    assert "it is a symbolic link" in victim.refusal()


def test_a_pipe_does_not_keep_the_reader_waiting(victim: Victim) -> None:
    """Opening one for reading waits for a writer that never comes."""
    victim.weights.unlink()
    os.mkfifo(victim.weights)
    assert "is no plain file" in victim.refusal()


def test_a_directory_of_that_name_is_refused(victim: Victim) -> None:
    """It can be opened, but not read."""
    victim.weights.unlink()
    victim.weights.mkdir()
    assert "is no plain file" in victim.refusal()


def test_a_link_that_the_operator_allows_leads_to_files_that_are_checked_like_any(
    victim: Victim, tmp_path: Path
) -> None:
    """A hub's snapshot links to its blobs; what is no plain file there stays refused."""
    blob = tmp_path / "blob"
    victim.weights.rename(blob)
    victim.weights.symlink_to(blob)
    read_adapter(victim.directory, follow_links=True)
    os.mkfifo(tmp_path / "pipe")
    for goal in (tmp_path / "nothing", victim.weights, Path(os.devnull), tmp_path / "pipe"):
        victim.weights.unlink()
        victim.weights.symlink_to(goal)
        with pytest.raises(AdapterFileError, match=r"cannot be read|is no plain file"):
            read_adapter(victim.directory, follow_links=True)
