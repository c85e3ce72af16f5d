"""The small parent of the serving process: restarts it after a crash, ends with it otherwise.

The parent imports neither MLX nor a web framework, so it survives what kills the child. A pipe
whose writing end only the parent holds tells the child that the parent is gone: it reads the end
of file even after ``kill -9``, on Linux and macOS alike.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

EXIT_POISONED = 70
"""Exit code of a serving process whose device failed (``EX_SOFTWARE`` of sysexits.h)."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NO_CRASH = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

Log = Callable[[str, Mapping[str, object]], None]
"""Where the supervisor says what it does: an event's name and its fields."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a crashed child is started again. Times in seconds.

    At most ``max_restarts`` restarts within any ``window_s``. The wait before a restart doubles
    with each crash in the window, from ``first_delay_s`` to ``max_delay_s``.
    """

    max_restarts: int = 5
    window_s: float = 600.0
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the child again after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End with ``code``: restarting does not help, ``reason`` says why."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The child ended as it should, or in a way that a restart cannot mend; pass ``code`` on."""

    code: int


Decision = Restart | GiveUp | End


def is_crash(returncode: int) -> bool:
    """Whether a child that ended so should be started again.

    ``returncode`` is ``Popen``'s: the exit code, or minus the signal that killed it. Crashes are
    ``EXIT_POISONED`` and death by a signal that does not mean "please stop". Usage errors, a taken
    port or a missing model exit with other codes and would fail again.
    """
    if returncode < 0:
        return -returncode not in _NO_CRASH
    return returncode == EXIT_POISONED


def shell_code(returncode: int) -> int:
    """The exit code that a shell reports: the code itself, or 128 plus the signal."""
    return returncode if returncode >= 0 else 128 - returncode


def describe(returncode: int) -> str:
    """What happened to the child, in words."""
    if returncode == EXIT_POISONED:
        return f"the device failed (exit code {EXIT_POISONED})"
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def decide(
    policy: RestartPolicy, crashes: Sequence[float], returncode: int, *, stopping: bool
) -> Decision:
    """What follows from a child's end.

    ``crashes`` are the times of all crashes so far in rising order; if this end is a crash, it is
    the last of them. ``stopping`` says that the child had been asked to stop: then nothing is
    started again, and a child that the request itself killed ended well.
    """
    if stopping:
        asked = -returncode in _STOP_SIGNALS
        return End(0 if asked else shell_code(returncode))
    if not is_crash(returncode):
        return End(shell_code(returncode))
    recent = sum(1 for at in crashes if at > crashes[-1] - policy.window_s)
    if recent > policy.max_restarts:
        return GiveUp(
            shell_code(returncode),
            f"the serving process crashed {recent} times within {policy.window_s:g} s, "
            f"last: {describe(returncode)}. Its own log lines above say where; "
            "'chainlora doctor --selftest' checks this device.",
        )
    # The exponent is bounded because 2.0 ** 1024 overflows.
    doublings = min(recent - 1, 60)
    return Restart(min(policy.first_delay_s * 2.0**doublings, policy.max_delay_s))


class Supervisor:
    """Runs one command as a child and keeps it running. Use ``run`` once, on the main thread."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        policy: RestartPolicy,
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        """``command`` receives two more arguments, ``--parent-fd N``: see ``watch_parent``.

        ``clock`` returns seconds that never run backwards.
        """
        self._command = list(command)
        self._policy = policy
        self._clock = clock
        self._log = log
        self._crashes: list[float] = []
        self._asked: signal.Signals | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Return the exit code for this process once the child has ended for good.

        SIGTERM and SIGINT are forwarded once and the child's end awaited; a further SIGINT kills
        the child. No child is left behind, whatever happens here.
        """
        wake, wake_writer = os.pipe()
        alive, alive_writer = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_writer, False)
        # The handlers do nothing: the numbers arrive through the pipe, so that signals and the
        # child's end are handled one after the other, in one place.
        watched = (*_STOP_SIGNALS, signal.SIGCHLD)
        before = {number: signal.signal(number, _ignore) for number in watched}
        old_wake = signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        try:
            return self._supervise(wake, alive)
        finally:
            if self._child is not None and self._child.poll() is None:
                self._child.kill()
                self._child.wait()
            signal.set_wakeup_fd(old_wake)
            for number, handler in before.items():
                signal.signal(number, handler)
            for fd in (wake, wake_writer, alive, alive_writer):
                os.close(fd)

    def _supervise(self, wake: int, alive: int) -> int:
        while True:
            code = self._run_child(wake, alive)
            if is_crash(code):
                self._crashes.append(self._clock())
            decision = decide(self._policy, self._crashes, code, stopping=self._asked is not None)
            match decision:
                case End(code=code):
                    self._log("supervisor_ended", {"code": code})
                    return code
                case GiveUp(code=code, reason=reason):
                    self._log("supervisor_gave_up", {"code": code, "reason": reason})
                    return code
                case Restart(delay_s=delay_s):
                    self._log("child_restarts", {"reason": describe(code), "delay_s": delay_s})
                    self._pause(wake, delay_s)
                    if self._asked is not None:
                        return 0

    def _run_child(self, wake: int, alive: int) -> int:
        # A session of its own: Ctrl-C in a terminal reaches the parent alone, which forwards it
        # once; twice would make the child end at once.
        self._child = child = subprocess.Popen(
            [*self._command, "--parent-fd", str(alive)],
            stdin=subprocess.DEVNULL,
            pass_fds=(alive,),
            start_new_session=True,
        )
        self._log("child_started", {"pid": child.pid})
        while True:
            code = child.poll()
            if code is not None:
                self._log("child_ended", {"pid": child.pid, "reason": describe(code)})
                return code
            select.select([wake], [], [])
            for number in _drain(wake):
                self._forward(child, signal.Signals(number))

    def _forward(self, child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        if number not in _STOP_SIGNALS:
            return
        if self._asked is None:
            self._asked = number
            self._log("stopping", {"signal": number.name})
            child.send_signal(number)
        elif number == signal.SIGINT:
            self._log("killing", {"signal": number.name})
            child.kill()
        else:
            self._log("already_stopping", {"signal": number.name})

    def _pause(self, wake: int, delay_s: float) -> None:
        end = self._clock() + delay_s
        while self._asked is None and (left := end - self._clock()) > 0:
            select.select([wake], [], [], left)
            for number in _drain(wake):
                if number in _STOP_SIGNALS:
                    self._asked = signal.Signals(number)
                    self._log("stopping", {"signal": self._asked.name})


def watch_parent(fd: int, on_death: Callable[[], None]) -> None:
    """Call ``on_death`` from a thread of its own once the supervisor is gone.

    ``fd`` is the number given as ``--parent-fd``. Nothing is ever written to that pipe; the end of
    file is the message. Raises OSError where ``fd`` is not open.
    """
    os.fstat(fd)

    def wait() -> None:
        while os.read(fd, 1):
            pass
        on_death()

    threading.Thread(target=wait, name="watch-parent", daemon=True).start()


def stop_orphan(grace_s: float) -> None:
    """End this process after its parent's death: SIGTERM now, and ``_exit`` after ``grace_s``.

    Blocks; meant as the ``on_death`` of ``watch_parent``.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(grace_s)
    os._exit(shell_code(-signal.SIGTERM))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler that exists so that the wake-up pipe is written."""


def _drain(wake: int) -> bytes:
    try:
        return os.read(wake, 4096)
    except BlockingIOError:
        return b""
