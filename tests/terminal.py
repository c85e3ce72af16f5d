"""A command on a pseudo-terminal, for tests."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys


class Terminal:
    """A command on a pseudo-terminal, as a user has it."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._seen = ""

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        # A session of its own with this terminal in control, so that ^C becomes SIGINT.
        start = (
            "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "from server.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, *self._arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb"},
        )
        os.close(slave)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        os.close(self._master)

    def type(self, text: str) -> None:
        """What the user types."""
        os.write(self._master, text.encode())

    def expect(self, text: str) -> None:
        """Read on until ``text`` has been shown; OSError where the program ended before."""
        assert self._shows(text, wait_s=20), f"{text!r} was not shown, but {self._seen!r}"

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until ``text`` is shown.

        One that comes between Python's last look at its signals and its read is noticed only with
        the next key.
        """
        for _ in range(20):
            self.type("\x03")
            if self._shows(text, wait_s=1):
                return
        raise AssertionError(f"{text!r} was not shown, but {self._seen!r}")

    def _shows(self, text: str, *, wait_s: float) -> bool:
        while text not in self._seen:
            if not select.select([self._master], [], [], wait_s)[0]:
                return False
            self._seen += os.read(self._master, 4096).decode()
        self._seen = self._seen.partition(text)[2]
        return True

    def exit_code(self) -> int:
        """Wait for the program's end."""
        return self._process.wait(20)
