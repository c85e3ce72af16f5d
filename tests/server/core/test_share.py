"""Serving and background work share one device by time."""

from hypothesis import given
from hypothesis import strategies as st

from server.core.share import BackgroundShare

SECONDS = st.floats(min_value=0.001, max_value=1.0)


def test_no_share_lets_no_piece_run_beside_rows() -> None:
    """A share of 0 leaves the background the idle device only."""
    share = BackgroundShare(0.0)
    share.served(100.0)
    assert not share.may_run()


def test_the_first_piece_waits_for_nothing() -> None:
    """Before a piece has run, its length is unknown; one must run to learn it."""
    assert BackgroundShare(0.25).may_run()


@given(st.floats(min_value=0.05, max_value=0.9), SECONDS, SECONDS)
def test_the_background_gets_its_share_of_a_busy_device(
    fraction: float, step_s: float, piece_s: float
) -> None:
    """Over a long time of steady serving the pieces take the share, within one piece."""
    share = BackgroundShare(fraction)
    served = worked = 0.0
    while served < 200 * max(step_s, piece_s):
        share.served(step_s)
        served += step_s
        while share.may_run():
            share.worked(piece_s)
            worked += piece_s
    owed = served * fraction / (1 - fraction)
    assert worked <= owed + piece_s
    assert worked >= owed - 2 * max(piece_s, step_s * fraction / (1 - fraction))


def test_an_idle_device_leaves_no_debt() -> None:
    """Pieces that ran while nothing was served are not held against the background."""
    share = BackgroundShare(0.5)
    for _ in range(100):
        share.rested(1.0)
    share.served(1.0)
    assert share.may_run()


def test_credit_does_not_pile_up_while_there_is_no_work() -> None:
    """After an hour of serving alone, the background does not take the device for an hour."""
    share = BackgroundShare(0.5)
    share.worked(0.2)
    for _ in range(3600):
        share.served(1.0)
    assert share.credit_s <= 2.0
