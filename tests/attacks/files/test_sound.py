"""The victim before any attack."""

from __future__ import annotations

from tests.attacks.files.conftest import Victim


def test_the_unspoiled_directory_is_read(victim: Victim) -> None:
    """Each refusal beside this file is for its attack and for nothing else."""
    victim.read()
