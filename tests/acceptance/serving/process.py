"""The real server as a process of its own, and what it says on its way."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
BASE = "tiny"
_PATIENCE_S = 60.0
_SERVING = rf"serving {BASE} at (http://\S+)/v1"


class ServerProcess:
    """A process and the lines of its log, which a thread reads so that no wait is without end."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, folder: Path = ROOT
    ) -> None:
        self._lines: list[str] = []
        self._is_silent = False
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process that was started, which may be a supervisor."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return "".join(self._lines)

    def said(self, pattern: str, *, times: int = 1) -> re.Match[str]:
        """Wait for the log to match ``pattern`` for the n-th time; an early end fails the test."""
        deadline = time.monotonic() + _PATIENCE_S
        with self._news:
            while True:
                found = list(re.finditer(pattern, self.log))
                if len(found) >= times:
                    return found[times - 1]
                left = deadline - time.monotonic()
                assert left > 0, f"it has not said {pattern!r} in time:\n{self.log}"
                assert not self._is_silent, f"it ended without {pattern!r}:\n{self.log}"
                self._news.wait(left)

    def serving(self, *, times: int = 1) -> str:
        """Wait until it serves for the n-th time; its address."""
        return self.said(_SERVING, times=times)[1]

    def stop(self) -> int:
        """Ask it to end, and wait; its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def signal(self, number: signal.Signals) -> None:
        """Send it ``number``."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait(_PATIENCE_S)

    def close(self) -> None:
        """End it by force where it still runs. A child of a supervisor notices and ends, too."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._is_silent = True
            self._news.notify_all()


@contextmanager
def started(
    scratch: Path,
    model: Path,
    adapters: Mapping[str, Path],
    *options: str,
    module: str = "server.cli",
) -> Iterator[ServerProcess]:
    """``chainlora serve`` on the tiny model, offline and without any hub cache."""
    (scratch / "hub").mkdir()
    arguments = [module, "serve", "--model", str(model), "--served-name", BASE]
    arguments += ["--data-dir", str(scratch / "data"), *options]
    for name, directory in adapters.items():
        arguments += ["--adapter", f"{name}={directory}"]
    environment = {
        **os.environ,
        "CHAINLORA_THREADS": "1",
        "HF_HOME": str(scratch / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    server = ServerProcess(arguments, environment)
    try:
        yield server
    finally:
        server.close()


def free_port() -> str:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def ready(url: str) -> int | None:
    """The status of ``/health/ready``; None where nobody answers."""
    try:
        return httpx.get(f"{url}/health/ready", timeout=10).status_code
    except httpx.TransportError:
        return None
