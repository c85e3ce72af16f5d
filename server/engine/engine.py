"""The Engine port on MLX: hands rows to the device thread and events back to the event loop."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import mlx.core as mx

from adapters.errors import AdapterError
from server.core.backlog import Backlog
from server.core.errors import (
    EngineFailed,
    InvalidRequest,
    ServeError,
    ShuttingDown,
    UnsupportedField,
)
from server.core.messages import Constraint, EngineStats, Event, Failed, Generate
from server.engine.device import AdapterSource, Limits, LoadModel
from server.engine.grammars import Grammars, Matcher
from server.engine.inbox import Begin, Cancel, Forget, Message, Stop
from server.engine.lending import Lender
from server.engine.stream import RowStream
from server.engine.worker import Worker

log = logging.getLogger(__name__)


class MlxEngine:
    """Implements ``server.core.ports.Engine`` with one device thread, which ``device`` lends.

    ``load`` runs on that thread. After an exception there the engine is poisoned: every row gets
    Failed(EngineFailed), so does every later submit, and ``on_failure`` is called once. Without
    ``grammars`` constraints are refused.
    """

    def __init__(
        self,
        load: LoadModel,
        limits: Limits,
        source: AdapterSource,
        *,
        grammars: Grammars | None = None,
        on_failure: Callable[[EngineFailed], None] = lambda _: None,
    ) -> None:
        self._load = load
        self._limits = limits
        self._source = source
        self._grammars = grammars
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.device = Lender(self._inbox.put)
        self._streams: dict[str, RowStream] = {}
        self._backlog = Backlog(
            rows=limits.max_rows,
            queue_limit=limits.queue_limit,
            kv_tokens=limits.kv_budget_tokens,
            queue_kv_factor=limits.queue_kv_factor,
        )
        self._refusal: ServeError | None = ShuttingDown("The engine has not been started.")
        self._state = "stopped"
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(self) -> None:
        """Load the base and return when rows can be submitted.

        Raises what ``load`` raises where the base cannot be used, EngineFailed where the device
        fails.
        """
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._state = "loading"
        self._thread.start()
        try:
            await self._ready
        except (AdapterError, EngineFailed):
            # Else the process might end while the thread still lets go of the device, and abort.
            await asyncio.to_thread(self._thread.join)
            self._thread = None
            raise
        self._refusal = None
        self._state = "ready"

    def check(self, constraint: Constraint) -> None:
        """Compile a constraint and keep it; any thread, for a second at most."""
        self._matcher(constraint)

    def submit(self, request: Generate) -> RowStream:
        """Queue a row and return its events; see the port for what it raises."""
        if self._refusal is not None:
            raise self._refusal
        limits = self._limits
        if len(request.prompt) >= limits.kv_budget_tokens:
            raise InvalidRequest(
                f"The prompt has {len(request.prompt)} tokens; the KV cache holds "
                f"{limits.kv_budget_tokens}. Shorten it, or raise kv_budget_bytes."
            )
        matcher = None if request.constraint is None else self._matcher(request.constraint)
        self._backlog.add(
            request.request_id,
            limits.expected(len(request.prompt), request.max_tokens),
            row_s=0.0 if self._worker is None else self._worker.stats.row_s,
        )
        stream = RowStream(
            limit=limits.event_queue_limit, abandon=lambda: self._abandon(request.request_id)
        )
        self._streams[request.request_id] = stream
        self._empty.clear()
        self._inbox.put(Begin(request, matcher))
        return stream

    def cancel(self, request_id: str) -> None:
        """Ask for the end of a row; unknown and ended rows are no error."""
        self._inbox.put(Cancel(request_id))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that ``start`` ran on."""
        return self._loop

    def forget(self, revision: str) -> None:
        """Free a deleted revision's memory, as soon as no row holds it; from any thread."""
        self._inbox.put(Forget(revision))

    def stats(self) -> EngineStats:
        """The device thread's last snapshot, and how many adapters there are now."""
        worker = self._worker
        last = EngineStats(state=self._state) if worker is None else worker.stats
        if self._state not in ("ready", "draining"):
            return replace(last, state=self._state)
        return replace(last, state=self._state, registered_adapters=self._source.registered())

    async def stop(self, *, grace_s: float) -> None:
        """Drain for ``grace_s`` seconds, cancel what is left, end the device thread."""
        if self._thread is None:
            return
        if self._refusal is None:
            self._refusal = ShuttingDown("The server is shutting down; send the request again.")
            self._state = "draining"
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for request_id in list(self._streams):
                self.cancel(request_id)
            await self._empty.wait()
        self._inbox.put(Stop())
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        if self._state != "failed":
            self._state = "stopped"

    def _matcher(self, constraint: Constraint) -> Matcher:
        if self._grammars is None:
            raise UnsupportedField(
                f"{constraint.field}: this engine has no grammars; leave it out.",
                param=constraint.field,
            )
        return self._grammars.grammar(constraint).matcher()

    def _run(self) -> None:
        """The device thread. Its last line keeps the process from aborting at exit."""
        try:
            loaded = self._load()
        except AdapterError as error:
            self._loop.call_soon_threadsafe(self._refuse_to_start, error)
            mx.clear_streams()
            return
        try:
            self._worker = Worker(loaded, self._limits, self._source, self._inbox, self._publish)
            self.device.open()
            self._loop.call_soon_threadsafe(self._ready.set_result, None)
            self._worker.run()
        except Exception as error:
            log.exception("the device thread failed")
            self._loop.call_soon_threadsafe(self._poison, error)
        finally:
            self.device.close(self._inbox)
            mx.clear_streams()

    def _refuse_to_start(self, error: AdapterError) -> None:
        self._state = "stopped"
        self._ready.set_exception(error)

    def _publish(self, events: Sequence[tuple[str, Event]]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Sequence[tuple[str, Event]]) -> None:
        for request_id, event in events:
            stream = self._streams.get(request_id)
            if stream is None:
                continue
            stream.push(event)
            if stream.ended:
                self._forget(request_id)

    def _abandon(self, request_id: str) -> None:
        """The reader is gone: free the row now, forget the stream at once."""
        self._forget(request_id)
        self.cancel(request_id)

    def _forget(self, request_id: str) -> None:
        self._streams.pop(request_id, None)
        self._backlog.remove(request_id)
        if not self._streams:
            self._empty.set()

    def _poison(self, error: Exception) -> None:
        failure = EngineFailed(
            f"The engine failed ({type(error).__name__}: {error}). The server restarts it; send "
            "the request again."
        )
        self._refusal = failure
        self._state = "failed"
        self._deliver([(request_id, Failed(failure)) for request_id in list(self._streams)])
        if not self._ready.done():
            self._ready.set_exception(failure)
        self._on_failure(failure)
