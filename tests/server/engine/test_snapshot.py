"""What the engine shows of itself."""

from __future__ import annotations

import pytest

from server.engine.snapshot import Counters


def test_how_far_apart_rows_end_is_measured_while_there_are_any() -> None:
    """An idle night says nothing about when a place will be free."""
    counters = Counters()
    counters.ended(10.0)
    assert counters.row_s == 0
    counters.ended(12.0)
    assert counters.row_s == 2
    counters.idle()
    counters.ended(1000.0)
    counters.ended(1004.0)
    assert counters.row_s == pytest.approx(2.2)
