"""Bytes that belong to no tensor: room for a second file inside the first."""

from __future__ import annotations

from tests.attacks.files.conftest import SIZE, B, Victim


def test_a_hole_between_tensors_is_refused(victim: Victim) -> None:
    """Every byte is some tensor's."""
    header = victim.header()
    header[B]["data_offsets"] = [SIZE + 8, 2 * SIZE + 8]
    victim.write(header, bytes(2 * SIZE + 8))
    assert "invalid offset" in victim.refusal()


def test_bytes_after_the_last_tensor_are_refused(victim: Victim) -> None:
    """A zip archive, for one, is found from its end."""
    victim.write(victim.header(), bytes(2 * SIZE) + b"PK\x05\x06" + bytes(18))
    assert "not fully covered" in victim.refusal()
