"""Lends the device thread to other work, one piece at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from mlx.nn.layers.base import Module

from adapters.errors import AdapterError, DeviceGone
from server.core.share import BackgroundShare

Result = TypeVar("Result")

_GONE = "The device has failed or is being stopped; the stage continues after a restart."


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A call for the device thread, and where its outcome goes."""

    call: Callable[[Module], Any]
    outcome: Future[Any]

    def run(self, model: Module) -> None:
        """Run it. An AdapterError belongs to the caller; anything else is raised here as well."""
        try:
            result = self.call(model)
        except AdapterError as error:
            self.outcome.set_exception(error)
        except Exception as error:
            self.outcome.set_exception(DeviceGone(f"The device failed in training: {error}"))
            raise
        else:
            self.outcome.set_result(result)

    def refuse(self) -> None:
        """It will not run."""
        self.outcome.set_exception(DeviceGone(_GONE))


class LentTime:
    """The pieces that wait for the device, and when they get it; device thread only."""

    def __init__(self, share: float) -> None:
        self._waiting: deque[Piece] = deque()
        self._share = BackgroundShare(share)
        self.pieces = 0
        self.total_s = 0.0
        self.longest_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, piece: Piece) -> None:
        """It waits for its turn."""
        self._waiting.append(piece)

    def served(self, seconds: float) -> None:
        """Serving had the device for so long."""
        self._share.served(seconds)

    def advance(self, model: Module, *, serving: bool) -> bool:
        """Run the next piece, where the device is free or the share allows it; whether one ran."""
        if not self._waiting or (serving and not self._share.may_run()):
            return False
        began = time.perf_counter()
        self._waiting.popleft().run(model)
        seconds = time.perf_counter() - began
        (self._share.worked if serving else self._share.rested)(seconds)
        self.pieces += 1
        self.total_s += seconds
        self.longest_s = max(self.longest_s, seconds)
        return True

    def refuse(self) -> None:
        """No piece runs any more."""
        while self._waiting:
            self._waiting.popleft().refuse()


class Lender:
    """Implements ``adapters.ports.Device`` with the device thread's inbox. Any thread may ``run``.

    Closed until ``open`` and after ``close``: then every piece that waits, and every later one,
    is refused.
    """

    def __init__(self, put: Callable[[Piece], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._is_open = False

    def open(self) -> None:
        """The device thread takes messages from now on."""
        with self._lock:
            self._is_open = True

    def run(self, piece: Callable[[Any], Result]) -> Result:
        """Wait for ``piece(model)`` on the device thread; see the port for what it raises."""
        outcome: Future[Result] = Future()
        with self._lock:
            if not self._is_open:
                raise DeviceGone(_GONE)
            self._put(Piece(piece, outcome))
        return outcome.result()

    def close(self, inbox: queue.SimpleQueue[Any]) -> None:
        """The device thread reads no further: refuse what lies in ``inbox`` and what comes."""
        with self._lock:
            self._is_open = False
            while True:
                try:
                    message = inbox.get_nowait()
                except queue.Empty:
                    return
                if isinstance(message, Piece):
                    message.refuse()
