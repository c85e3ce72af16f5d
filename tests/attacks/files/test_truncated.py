"""A file that ends too early, at every byte."""

from __future__ import annotations

from tests.attacks.files.conftest import Victim


def test_a_file_cut_anywhere_is_refused(victim: Victim) -> None:
    """A download that broke off, a disk that was full."""
    whole = victim.weights.read_bytes()
    for length in range(len(whole)):
        victim.weights.write_bytes(whole[:length])
        assert "not a sound safetensors file" in victim.refusal()


def test_a_missing_file_is_refused_by_name(victim: Victim) -> None:
    """Each of the two."""
    for file in (victim.weights, victim.config):
        content = file.read_bytes()
        file.unlink()
        assert f"{file.name} cannot be read: No such file" in victim.refusal()
        file.write_bytes(content)
