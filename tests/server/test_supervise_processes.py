"""The supervising parent with real children: restarts, signals, and that no child outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from server.supervise import EXIT_POISONED, RestartPolicy, Supervisor

AT_ONCE = RestartPolicy(first_delay_s=0.0)


def test_a_crashed_child_is_started_again_until_it_ends_well(tmp_path: Path) -> None:
    """Two crashes, one by exit code and one by signal, then exit code 0."""
    starts = tmp_path / "starts"
    child = f"""
        import os, pathlib, signal
        path = pathlib.Path({str(starts)!r})
        path.write_text((path.read_text() if path.exists() else "") + "x")
        count = len(path.read_text())
        if count == 1:
            raise SystemExit({EXIT_POISONED})
        if count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    """
    events, code = _run_here(child, AT_ONCE)
    assert code == 0
    assert starts.read_text() == "xxx"
    reasons = [fields["reason"] for event, fields in events if event == "child_restarts"]
    assert reasons == ["the device failed (exit code 70)", "killed by SIGKILL"]


def test_a_child_that_always_crashes_is_given_up() -> None:
    """After the allowed restarts the child's code comes out, with the reason in the log."""
    policy = RestartPolicy(max_restarts=2, first_delay_s=0.0)
    events, code = _run_here(f"raise SystemExit({EXIT_POISONED})", policy)
    assert code == EXIT_POISONED
    assert [event for event, _ in events].count("child_started") == 3
    assert events[-1][0] == "supervisor_gave_up"
    assert "crashed 3 times" in str(events[-1][1]["reason"])


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_no_restart_loop_on_other_codes(code: int) -> None:
    """A usage error or a taken port ends the parent with the child's code at once."""
    events, seen = _run_here(f"raise SystemExit({code})", AT_ONCE)
    assert seen == code
    assert [event for event, _ in events] == ["child_started", "child_ended", "supervisor_ended"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_is_forwarded_once_and_waited_for(number: signal.Signals) -> None:
    """Two signals in a row reach the child once; its clean end is the parent's."""
    with _supervisor(_COUNTING_CHILD) as (parent, lines):
        pid = _child_pid(lines)
        parent.send_signal(number)
        assert lines.readline().split() == ["signal", str(int(number))]
        parent.send_signal(signal.SIGTERM)
        _await_event(parent, "already_stopping")
        os.kill(pid, signal.SIGUSR1)
        assert lines.readline().split() == ["count", "1"]
        assert parent.wait(20) == 7


def test_a_second_interrupt_kills_a_child_that_does_not_end() -> None:
    """Ctrl-C twice ends even a child that ignores it."""
    with _supervisor(_STUBBORN_CHILD) as (parent, lines):
        pid = _child_pid(lines)
        parent.send_signal(signal.SIGINT)
        assert lines.readline().split() == ["signal", "2"]
        parent.send_signal(signal.SIGINT)
        assert parent.wait(20) == 128 + signal.SIGKILL
        assert not _alive(pid)


def test_a_stop_signal_ends_the_wait_before_a_restart() -> None:
    """SIGTERM during back-off starts no further child and exits 0."""
    child = f"print('up', flush=True); raise SystemExit({EXIT_POISONED})"
    with _supervisor(child, first_delay_s=1000.0, max_delay_s=1000.0) as (parent, lines):
        assert lines.readline() == "up\n"
        _await_event(parent, "child_restarts")
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(20) == 0


def test_the_child_stops_when_the_parent_is_killed() -> None:
    """``kill -9`` on the parent reaches the child as SIGTERM through the closed pipe."""
    with _supervisor(_WATCHING_CHILD) as (parent, lines):
        pid = _child_pid(lines)
        parent.kill()
        parent.wait(20)
        assert lines.readline().split() == ["signal", str(int(signal.SIGTERM))]
        assert lines.readline() == ""
        _wait_gone(pid)


def test_a_child_that_ignores_its_orphaning_is_ended_after_the_grace() -> None:
    """``stop_orphan`` exits by itself where SIGTERM does not end the process."""
    ignoring = _WATCHING_CHILD.replace("raise SystemExit(0)", "pass").replace("30.0", "0.05")
    with _supervisor(ignoring) as (parent, lines):
        pid = _child_pid(lines)
        parent.kill()
        parent.wait(20)
        assert lines.readline().split() == ["signal", str(int(signal.SIGTERM))]
        assert lines.readline() == ""
        _wait_gone(pid)


def test_the_parent_imports_neither_mlx_nor_a_web_framework() -> None:
    """What kills the child must not be able to kill the parent; it also stays small."""
    source = (
        "import sys, server.supervise\n"
        "heavy = {'mlx', 'adapters', 'fastapi', 'uvicorn', 'pydantic'} & set(sys.modules)\n"
        "raise SystemExit(sorted(heavy) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


_HANDLER = """
    import os, signal, sys
    from server.supervise import stop_orphan, watch_parent
    parent_fd = int(sys.argv[sys.argv.index("--parent-fd") + 1])
    watch_parent(parent_fd, lambda: {orphaned})
    count = 0
    def seen(number, frame):
        global count
        count += 1
        print("signal", int(number), flush=True)
        {then}
    signal.signal(signal.SIGTERM, seen)
    signal.signal(signal.SIGINT, seen)
"""
# SIGUSR1 is how the test says "now end".
_COUNTING_CHILD = (
    _HANDLER.format(orphaned="os._exit(9)", then="pass")
    + """
    def end(number, frame):
        print("count", count, flush=True)
        raise SystemExit(7)
    signal.signal(signal.SIGUSR1, end)
    print("pid", os.getpid(), flush=True)
    while True:
        signal.pause()
"""
)
_STUBBORN_CHILD = (
    _HANDLER.format(orphaned="os._exit(9)", then="pass")
    + """
    print("pid", os.getpid(), flush=True)
    while True:
        signal.pause()
"""
)
_WATCHING_CHILD = (
    _HANDLER.format(orphaned="stop_orphan(30.0)", then="raise SystemExit(0)")
    + """
    print("pid", os.getpid(), flush=True)
    while True:
        signal.pause()
"""
)


def _run_here(
    child: str, policy: RestartPolicy
) -> tuple[list[tuple[str, Mapping[str, object]]], int]:
    events: list[tuple[str, Mapping[str, object]]] = []
    supervisor = Supervisor(
        [sys.executable, "-c", textwrap.dedent(child)],
        policy=policy,
        clock=time.monotonic,
        log=lambda event, fields: events.append((event, fields)),
    )
    return events, supervisor.run()


@contextmanager
def _supervisor(child: str, **policy: float) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A supervisor in a process of its own; the child's output, line by line."""
    source = f"""
        import json, os, sys, time
        from server.supervise import RestartPolicy, Supervisor
        def log(event, fields):
            print(json.dumps([event, fields]), file=sys.stderr, flush=True)
        command = [sys.executable, "-c", os.environ["CHILD"]]
        raise SystemExit(Supervisor(
            command, policy=RestartPolicy(**{policy!r}), clock=time.monotonic, log=log
        ).run())
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CHILD": textwrap.dedent(child)},
    )
    assert parent.stdout is not None
    try:
        yield parent, parent.stdout
    finally:
        parent.kill()
        parent.wait(20)
        for stream in (parent.stdout, parent.stderr):
            if stream is not None:
                stream.close()


def _child_pid(lines: IO[str]) -> int:
    word, pid = lines.readline().split()
    assert word == "pid"
    return int(pid)


def _await_event(parent: subprocess.Popen[str], name: str) -> None:
    assert parent.stderr is not None
    for line in parent.stderr:
        if json.loads(line)[0] == name:
            return
    raise AssertionError(f"the supervisor ended before it said {name!r}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie of another parent still answers to signal 0.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while _alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still alive"
        time.sleep(0.01)
