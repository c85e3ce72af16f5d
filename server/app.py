"""The composition root: builds the parts, starts and stops them in order, and serves."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from server.api.admin.ports import Archives, Chains, Datasets, Loads, Stages, Transfers
from server.api.application import create_api
from server.api.files.ports import Files
from server.api.fine_tuning.ports import Jobs
from server.api.parts import HttpLimits, Parts
from server.api.transport import http_protocol
from server.core.ports import Catalog, Engine, Tokenizer
from server.settings import Settings
from server.supervise import EXIT_POISONED

log = logging.getLogger(__name__)

_FAREWELL_S = 10.0
"""After the grace of a shutdown: time for the last chunks, and for the device's last step."""


@dataclass(frozen=True, slots=True)
class Management:
    """Chains and their training: what ``/admin`` reaches, and what runs behind it.

    ``start`` is called once the engine takes requests, ``stop`` before it stops; ``stop`` may block
    for the time of a checkpoint.
    """

    stages: Stages
    chains: Chains
    datasets: Datasets
    transfers: Transfers
    archives: Archives
    loads: Loads
    files: Files
    jobs: Jobs
    start: Callable[[], None]
    stop: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading the base gives: the parts that only an implementation can make.

    ``engine`` is not started yet. ``fingerprint`` identifies base and build in answers; ``facts``
    gives what ``/admin/engine`` shows about device, BLAS and base; ``close`` lets go of what was
    opened.
    """

    engine: Engine
    tokenizer: Tokenizer
    catalog: Catalog
    fingerprint: str
    facts: Callable[[], Mapping[str, Any]]
    management: Management | None = None
    close: Callable[[], None] = lambda: None


Load = Callable[[Settings], Loaded]
"""The seam to an engine. Raises AdapterError where base or adapters cannot be used."""


@dataclass(frozen=True, slots=True)
class Application:
    """The parts, wired. Start before the first request, stop after the last.

    ``closing`` is set when it stops: streams that follow a stage end then.
    """

    settings: Settings
    loaded: Loaded
    api: FastAPI
    closing: asyncio.Event

    @property
    def engine(self) -> Engine:
        """What answers requests."""
        return self.loaded.engine

    async def start(self) -> None:
        """Return when requests can be served; raise EngineFailed where the device cannot."""
        await self.engine.start()
        if self.loaded.management is not None:
            self.loaded.management.start()

    async def stop(self) -> None:
        """Refuse new requests, let running ones finish within the grace, end the rest.

        Training stops first: its last checkpoint needs the device.
        """
        self.closing.set()
        if self.loaded.management is not None:
            await asyncio.to_thread(self.loaded.management.stop)
        await self.engine.stop(grace_s=self.settings.shutdown_grace_s)

    def close(self) -> None:
        """Let go of what was opened; no request may be in flight any more."""
        self.loaded.close()

    @property
    def failed(self) -> bool:
        """Whether the device is poisoned, so that this process must be replaced."""
        return self.engine.stats().state == "failed"


def build(settings: Settings, load: Load) -> Application:
    """Every part, made and wired, none started."""
    loaded = load(settings)
    management = loaded.management
    parts = Parts(
        engine=loaded.engine,
        catalog=loaded.catalog,
        tokenizer=loaded.tokenizer,
        limits=_http_limits(settings),
        fingerprint=loaded.fingerprint,
        clock=time.time,
        new_id=lambda: uuid.uuid4().hex,
        draw_seed=lambda: secrets.randbits(64),
        facts=lambda: {**loaded.facts(), "settings": settings.model_dump(mode="json")},
        stages=None if management is None else management.stages,
        chains=None if management is None else management.chains,
        datasets=None if management is None else management.datasets,
        transfers=None if management is None else management.transfers,
        archives=None if management is None else management.archives,
        loads=None if management is None else management.loads,
        files=None if management is None else management.files,
        jobs=None if management is None else management.jobs,
    )
    return Application(settings, loaded, create_api(parts), parts.closing)


def serve(settings: Settings, load: Load) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code: 0, or 70 after a device failure.

    The address is taken before the model is loaded, so that a port in use costs no time. Raises
    OSError for that, AdapterError and EngineFailed for a base that cannot be loaded or started.
    """
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with _bound_socket(settings) as listener:
        return asyncio.run(_serve(build(settings, load), listener))


class HttpServer(uvicorn.Server):
    """uvicorn around one application: drains its engine while connections end.

    It ends by itself when the device has failed. Unlike uvicorn's own it does not raise the signal
    that ended it once more, so that a clean end has exit code 0.
    """

    def __init__(self, application: Application) -> None:
        super().__init__(_uvicorn_config(application))
        self._application = application
        self.hung = False
        """Whether the engine did not stop in time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell where."""
        await super().startup(sockets)
        name = self._application.settings.base_name
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("serving %s at http://%s:%d/v1", name, shown, port)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._application.failed:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections, drain, and let every stream say that it ends."""
        draining = asyncio.create_task(self._application.stop())
        await super().shutdown(sockets)
        try:
            await asyncio.wait_for(draining, _FAREWELL_S)
        except TimeoutError:
            self.hung = True
            log.error("the device did not stop within %g s of the drain", _FAREWELL_S)
        # Last: a request that was checking a data set may still want to keep it.
        self._application.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to end. A second signal changes nothing: a terminal's Ctrl-C reaches this process
        twice, from the terminal and from the supervising parent, and every wait has its limit.
        """
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT meanwhile."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()


async def _serve(application: Application, listener: socket.socket) -> int:
    await application.start()
    server = HttpServer(application)
    await server.serve(sockets=[listener])
    return EXIT_POISONED if application.failed or server.hung else 0


def _uvicorn_config(application: Application) -> uvicorn.Config:
    settings = application.settings
    return uvicorn.Config(
        application.api,
        http=http_protocol(settings.header_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=settings.log_level,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_timeout_s,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s + _FAREWELL_S),
    )


def _http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        shutdown_grace_s=settings.shutdown_grace_s,
        most_rows=settings.queue_limit,
        refuse_unknown_fields=settings.unknown_fields == "refuse",
        allowed_hosts=settings.allowed_hosts,
        max_upload_bytes=settings.max_upload_bytes,
        stored_response_bytes=settings.stored_response_bytes,
    )


@contextmanager
def _bound_socket(settings: Settings) -> Iterator[socket.socket]:
    """The address, taken but not listened on: clients are refused until the model is there."""
    host, port = settings.host, settings.port
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise OSError(
                f"Cannot listen on {host} port {port}: {error.strerror}. Another server may be "
                "running there; stop it, or choose another --port."
            ) from error
        yield listener
