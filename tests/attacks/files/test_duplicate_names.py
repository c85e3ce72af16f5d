"""One name twice: the checker reads the one, the loader the other."""

from __future__ import annotations

import json

import pytest

from tests.attacks.files.conftest import SIZE, A, Victim


@pytest.mark.parametrize("other", [[4, 2], [1 << 20, 1 << 20]], ids=["alike", "impossible"])
def test_a_name_that_stands_twice_is_refused(victim: Victim, other: list[int]) -> None:
    """The safetensors library takes the last of the two without a word; we do not."""
    header = victim.header()
    first = {"dtype": "F32", "shape": other, "data_offsets": [0, SIZE]}
    text = f"{{{json.dumps(A)}: {json.dumps(first)}, {json.dumps(header)[1:]}"
    victim.write(text.encode(), bytes(2 * SIZE))
    assert f"{A!r} stands twice" in victim.refusal()


def test_a_field_that_stands_twice_is_refused(victim: Victim) -> None:
    """The same trick one level down."""
    text = json.dumps(victim.header()).replace(
        '"shape": [2, 4]', '"shape": [4, 2], "shape": [2, 4]'
    )
    victim.write(text.encode(), bytes(2 * SIZE))
    assert "duplicate field `shape`" in victim.refusal()


def test_two_tables_of_metadata_are_refused(victim: Victim) -> None:
    """It means nothing to us, and the file is still not what it seems."""
    tail = json.dumps(victim.header())[1:]
    text = '{"__metadata__": {"format": "mlx"}, "__metadata__": {"format": "pt"}, ' + tail
    victim.write(text.encode(), bytes(2 * SIZE))
    assert "duplicate field `__metadata__`" in victim.refusal()
