"""Claims queued stages one after the other and runs each to its end, on a thread of its own."""

from __future__ import annotations

import logging
import threading

from adapters.errors import AdapterError, ClaimLost, DeviceGone
from adapters.lineage import Fault, Stage
from adapters.stages.run import Ask, Host, StageRun
from adapters.states import StageState

log = logging.getLogger(__name__)


class Runner:
    """The trainer of one process: one stage at a time, in the store's order.

    ``wake``, ``ask`` and ``stop`` may be called from any thread.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._changed = threading.Condition()
        self._woken = True
        self._stopping = False
        self._asks: dict[str, Ask] = {}
        self._running: str | None = None

    def start(self) -> None:
        """Begin with whatever is queued."""
        self._thread.start()

    def wake(self) -> None:
        """A stage may have become runnable."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def ask(self, stage_id: str, ask: Ask) -> bool:
        """Ask the stage that runs to end early; False where another one or none runs."""
        with self._changed:
            if self._running != stage_id:
                return False
            # A cancellation is not taken back by a later pause.
            if self._asks.get(stage_id) is not Ask.CANCEL:
                self._asks[stage_id] = ask
            return True

    def stop(self) -> None:
        """Give the running stage back with a checkpoint, and end the thread; waits for both."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while self._wait():
            stage = self._claim()
            if stage is not None and not self._run(stage):
                return

    def _wait(self) -> bool:
        """Whether to look for a stage; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._stopping)
            self._woken = False
            return not self._stopping

    def _claim(self) -> Stage | None:
        """The next stage, marked as running for ``ask`` before anybody can see that it runs."""
        with self._changed:
            stage = self._host.store.claim()
            if stage is not None:
                self._running = stage.id
                self._woken = True  # after this one, look again
            return stage

    def _asked(self, stage_id: str) -> Ask | None:
        with self._changed:
            return self._asks.get(stage_id) or (Ask.STOP if self._stopping else None)

    def _run(self, stage: Stage) -> bool:
        """Run a claimed stage; False where the device is gone and nothing more can run."""
        try:
            state = StageRun(self._host, stage, lambda: self._asked(stage.id)).run()
            log.info("stage %s of %s: %s", stage.id, stage.chain, state)
        except DeviceGone:
            self._give_back(stage)
            return False
        except ClaimLost:
            log.warning("stage %s was claimed anew; this attempt ends", stage.id)
        except AdapterError as error:
            self._fail(stage, Fault(error.code, str(error)))
        except Exception as error:  # a defect of ours must not end every later stage
            log.exception("stage %s failed unexpectedly", stage.id)
            text = f"The server failed, which is a defect: {type(error).__name__}: {error}"
            self._fail(stage, Fault("internal_error", text))
        finally:
            with self._changed:
                self._running = None
                self._asks.pop(stage.id, None)
        return True

    def _give_back(self, stage: Stage) -> None:
        """Interrupted is not failed: the attempt goes on from the last checkpoint."""
        try:
            self._host.store.stages.transition(stage.id, StageState.QUEUED, fence=stage.fence)
        except AdapterError:
            log.exception("stage %s could not be given back; the next start does it", stage.id)

    def _fail(self, stage: Stage, fault: Fault) -> None:
        log.warning("stage %s of %s failed: %s", stage.id, stage.chain, fault.message)
        try:
            self._host.store.stages.fail(stage.id, stage.fence, fault)
        except AdapterError:
            log.exception("the failure of stage %s could not be recorded", stage.id)
