"""Two tensors that share bytes: what one reader takes for A another takes for B."""

from __future__ import annotations

import pytest

from tests.attacks.files.conftest import SIZE, B, Victim


@pytest.mark.parametrize(("start", "end"), [(16, 16 + SIZE), (0, SIZE)])
def test_tensors_that_overlap_are_refused(victim: Victim, start: int, end: int) -> None:
    """Half of it or all of it."""
    header = victim.header()
    header[B]["data_offsets"] = [start, end]
    victim.write(header, bytes(end))
    assert "invalid offset" in victim.refusal()
