"""The supervising parent's decisions: what follows from which end of the child."""

from __future__ import annotations

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.supervise import (
    EXIT_POISONED,
    End,
    GiveUp,
    Restart,
    RestartPolicy,
    decide,
    is_crash,
    shell_code,
)

POLICY = RestartPolicy()
CRASHES = st.sampled_from([EXIT_POISONED, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV])
TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).map(sorted)


@given(TIMES, CRASHES)
def test_a_crash_is_restarted_or_given_up(times: list[float], code: int) -> None:
    """More than ``max_restarts`` crashes in the window give up; any other crash restarts."""
    recent = [at for at in times if at > times[-1] - POLICY.window_s]
    decision = decide(POLICY, times, code, stopping=False)
    assert isinstance(decision, GiveUp) == (len(recent) > POLICY.max_restarts)
    assert isinstance(decision, Restart) == (len(recent) <= POLICY.max_restarts)


@given(st.integers(1, 5), CRASHES)
def test_the_wait_doubles_up_to_its_limit(count: int, code: int) -> None:
    """Back-off: first_delay_s * 2 ** (crashes - 1), never above max_delay_s."""
    policy = RestartPolicy(max_delay_s=3.0)
    decision = decide(policy, [float(at) for at in range(count)], code, stopping=False)
    assert decision == Restart(min(0.5 * 2 ** (count - 1), 3.0))


@given(st.lists(st.integers(600, 10**6), min_size=1, max_size=50), CRASHES)
def test_rare_crashes_never_give_up(gaps: list[int], code: int) -> None:
    """Crashes at least a window apart always restart after the shortest wait."""
    times = [float(at) for at in itertools.accumulate(gaps)]
    assert decide(POLICY, times, code, stopping=False) == Restart(POLICY.first_delay_s)


@given(st.integers(0, 255).filter(lambda code: code != EXIT_POISONED))
def test_every_other_exit_code_is_passed_on(code: int) -> None:
    """Clean ends, usage errors and taken ports are no crash: the same code comes out."""
    assert decide(POLICY, [], code, stopping=False) == End(code)


@given(TIMES, CRASHES)
def test_nothing_is_restarted_while_stopping(times: list[float], code: int) -> None:
    """A child that was asked to stop is never started again, however it ends."""
    assert decide(POLICY, times, code, stopping=True) == End(shell_code(code))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_that_the_forwarded_signal_killed_ended_well(number: signal.Signals) -> None:
    """Before the child has its handlers, the forwarded signal itself ends it: exit code 0."""
    assert decide(POLICY, [], -number, stopping=True) == End(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_that_someone_else_stopped_is_not_restarted(number: signal.Signals) -> None:
    """``kill`` on the child is a request to stop, reported as 128 plus the signal."""
    assert not is_crash(-number)
    assert decide(POLICY, [], -number, stopping=False) == End(128 + number)


def test_giving_up_names_the_last_crash() -> None:
    """The reason says how often, in which time, and what happened last."""
    decision = decide(POLICY, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], -signal.SIGABRT, stopping=False)
    assert isinstance(decision, GiveUp)
    assert decision.code == 128 + signal.SIGABRT
    assert "6 times within 600 s" in decision.reason
    assert "SIGABRT" in decision.reason
