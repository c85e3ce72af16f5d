"""Starting, watching and ending the servers under test. Loopback only; nothing outlives a run."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.1
_STOP_S = 20.0


class ServerError(Exception):
    """A server under test did not come up or did not stay up."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    url: str
    pid: int

    def peak_bytes(self) -> int:
        """The largest resident size so far on Linux, the present one elsewhere."""
        status = Path(f"/proc/{self.pid}/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True
        )
        return int(shown.stdout) * 1024

    def cpu_s(self) -> float:
        """Processor seconds that the server has used; 0 where the system does not tell."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> float:
    """Processor seconds that all programs together have used; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(
        int, stat.read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    arguments: Sequence[str], *, port: int, ready: str, log: Path, timeout_s: float
) -> Iterator[Running]:
    """Run ``python -m ARGUMENTS`` from the root of the tree until the context ends.

    It counts as up when ``GET ready`` is 200. Its output goes to ``log``, the end of which is in
    the ServerError of a server that ends by itself or is not up after ``timeout_s``.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + timeout_s
        while not _answers(port, ready):
            if process.poll() is not None:
                raise ServerError(f"{arguments[0]} ended with {process.returncode}: {_tail(log)}")
            if time.monotonic() > deadline:
                raise ServerError(f"{arguments[0]} not up after {timeout_s:g} s: {_tail(log)}")
            time.sleep(_POLL_S)
        yield Running(f"http://127.0.0.1:{port}", process.pid)
        if process.poll() is not None:
            raise ServerError(f"{arguments[0]} ended with {process.returncode}: {_tail(log)}")
    finally:
        _end(process)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: a server may have children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
        break
    process.wait()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
