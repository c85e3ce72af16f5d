"""What the HTTP side is given: it makes none of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter

from server.api.admin.ports import Archives, Chains, Datasets, Loads, Stages, Transfers
from server.api.files.ports import Files
from server.api.fine_tuning.ports import Jobs
from server.core.ports import Catalog, Engine, Tokenizer


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The settings that the HTTP side obeys; ``server.settings`` describes each.

    ``most_rows`` is what one request may queue.
    """

    max_body_bytes: int
    body_timeout_s: float
    request_timeout_s: float
    send_timeout_s: float
    shutdown_grace_s: float
    most_rows: int = 256
    refuse_unknown_fields: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_upload_bytes: int = 2**30
    stored_response_bytes: int = 64 * 2**20


_MOST_COMPILING = 2


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts behind the routes.

    ``fingerprint`` is the constant ``system_fingerprint``. ``facts`` are shown in
    ``/admin/engine`` beside the statistics. ``clock`` gives Unix seconds, ``new_id`` 32 characters
    that never repeat, ``draw_seed`` an unpredictable integer below 2**64 for a request without one.
    The routes of ``stages``, ``chains``, ``datasets``, ``transfers``, ``archives``, ``loads``,
    ``files`` and ``jobs`` are there where the part is. Whoever stops the process sets ``closing``
    on its event loop: streams that have no end of their own end then. Constraints are checked on
    threads that ``compiling`` lends, so that many long ones keep no other request from a thread.
    """

    engine: Engine
    catalog: Catalog
    tokenizer: Tokenizer
    limits: HttpLimits
    fingerprint: str
    clock: Callable[[], float]
    new_id: Callable[[], str]
    draw_seed: Callable[[], int]
    facts: Callable[[], Mapping[str, Any]] = field(default=dict)
    stages: Stages | None = None
    chains: Chains | None = None
    datasets: Datasets | None = None
    transfers: Transfers | None = None
    archives: Archives | None = None
    loads: Loads | None = None
    files: Files | None = None
    jobs: Jobs | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    compiling: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_MOST_COMPILING))
