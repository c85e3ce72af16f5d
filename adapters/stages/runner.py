"""Claims queued stages one after the other and runs each to its end, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from adapters.errors import AdapterError, ClaimLost, DeviceGone, StoreError, WrongState
from adapters.lineage import Fault, Stage
from adapters.stages.asks import Ask, left_in
from adapters.stages.run import Host, StageRun
from adapters.states import StageState

log = logging.getLogger(__name__)

_RETRY_S = 5.0


class Runner:
    """The trainer of one process: one stage at a time, in the store's order.

    ``wake``, ``ask``, ``withdraw_pause`` and ``stop`` may be called from any thread. Where the
    store cannot be used, as with a full disk, it is tried again every ``retry_s`` seconds.
    """

    def __init__(self, host: Host, *, retry_s: float = _RETRY_S) -> None:
        self._host = host
        self._retry_s = retry_s
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._changed = threading.Condition()
        self._woken = True
        self._stopping = False
        self._asks: dict[str, Ask] = {}
        self._unwritten: tuple[str, Fault] | None = None
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

    def withdraw_pause(self, stage_id: str) -> bool:
        """Let the stage that runs go on, though it was asked to pause; False where it was not."""
        with self._changed:
            if self._running != stage_id or self._asks.get(stage_id) is not Ask.PAUSE:
                return False
            del self._asks[stage_id]
            return True

    def fault_of(self, stage_id: str) -> Fault | None:
        """What stopped the stage that counts as running because the disk has no room to say so."""
        unwritten = self._unwritten
        return unwritten[1] if unwritten is not None and unwritten[0] == stage_id else None

    def stop(self) -> None:
        """Give the running stage back with a checkpoint, and end the thread; waits for both."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while self._wait():
            try:
                stage = self._claim()
            except Exception:  # one that ended the thread would end every later stage
                log.exception("no stage can be claimed; trying again in %g s", self._retry_s)
                self._pause()
                self.wake()
                continue
            if stage is not None and not self._run(stage):
                return

    def _wait(self) -> bool:
        """Whether to look for a stage; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._stopping)
            self._woken = False
            return not self._stopping

    def _pause(self) -> bool:
        """Let ``retry_s`` pass; False where the thread is to end."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, self._retry_s)

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
        left: StageState | None = None
        goes_on, suspended = True, False
        try:
            left = StageRun(self._host, stage, lambda: self._asked(stage.id)).run()
            log.info("stage %s of %s: %s", stage.id, stage.chain, left)
        except DeviceGone:
            left, goes_on = StageState.QUEUED, False  # interrupted is not failed
            self._move(stage, left)
        except ClaimLost:
            log.warning("stage %s was claimed anew; this attempt ends", stage.id)
        except StoreError as error:
            suspended = self._suspend(stage, error.code, str(error))
        except AdapterError as error:
            self._fail(stage, Fault(error.code, str(error)))
        except OSError as error:
            text = f"A file of the data directory cannot be used ({error}). Mend that."
            suspended = self._suspend(stage, StoreError().code, text)
        except Exception as error:  # a defect of ours must not end every later stage
            log.exception("stage %s failed unexpectedly", stage.id)
            text = f"The server failed, which is a defect: {type(error).__name__}: {error}"
            self._fail(stage, Fault("internal_error", text))
        finally:
            with self._changed:
                self._running = None
                ask = self._asks.pop(stage.id, None)
        if suspended and ask is Ask.CANCEL:
            self._move(stage, StageState.CANCELLED, claimed=False)
        elif left in (StageState.QUEUED, StageState.PAUSED) and left is not left_in(ask):
            # Asked, or taken back, after the stage had looked for the last time.
            self._move(stage, left_in(ask), claimed=False)
        return goes_on

    def _fail(self, stage: Stage, fault: Fault) -> None:
        log.warning("stage %s of %s failed: %s", stage.id, stage.chain, fault.message)
        self._record(stage, lambda: self._host.store.stages.fail(stage.id, stage.fence, fault))

    def _suspend(self, stage: Stage, code: str, why: str) -> bool:
        """Pause a stage that the disk stopped: nothing is wrong with it. True."""
        text = (
            f"{why} The stage is paused, nothing was published, and it goes on from its last "
            f"checkpoint: chainlora stage resume {stage.id}"
        )
        log.warning("stage %s of %s cannot go on: %s", stage.id, stage.chain, text)
        fault = Fault(code, text)
        self._unwritten = (stage.id, fault)
        self._record(stage, lambda: self._host.store.stages.suspend(stage.id, stage.fence, fault))
        self._unwritten = None
        return True

    def _move(self, stage: Stage, state: StageState, *, claimed: bool = True) -> None:
        fence = stage.fence if claimed else None
        self._record(
            stage, lambda: self._host.store.stages.transition(stage.id, state, fence=fence)
        )

    def _record(self, stage: Stage, write: Callable[[], object]) -> None:
        """Write how a stage was left, once the store takes it.

        One that is over and still counts as running would keep its chain waiting. At the end of the
        process it is left to the next one's start.
        """
        while True:
            try:
                write()
            except (ClaimLost, WrongState) as error:  # somebody else moved it first
                log.info("stage %s: %s", stage.id, error)
            except Exception as error:
                trace = None if isinstance(error, StoreError) else error  # that one says it all
                what = "how stage %s was left cannot be written yet: %s"
                log.error(what, stage.id, error, exc_info=trace)
                if self._pause():
                    continue
            return
