"""A server with a fake adapter management behind it, and a client for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.administration.fakes import Administration
from tests.live_server import LIMITS, LiveServer, live_server

ROW = {"prompt": "hi", "completion": "ho"}


@dataclass(frozen=True, slots=True)
class Site:
    """A running server, what lies behind it, and a client."""

    http: httpx.Client
    behind: Administration
    server: LiveServer

    def add(self, **fields: Any) -> httpx.Response:
        """The smallest stage, changed."""
        body = {"chain": "support", "examples": [ROW], **fields}
        return self.http.post("/admin/stages", json=body)

    def queued(self, chain: str = "support") -> str:
        """The id of a fresh stage."""
        response = self.add(chain=chain)
        assert response.status_code == 202, response.text
        stage: str = response.json()["id"]
        return stage

    def published(self, *chains: str) -> list[str]:
        """Ids of stages that ran to a revision, one for each name."""
        ids = [self.queued(chain) for chain in chains]
        for stage in ids:
            self.behind.stages.succeed(stage)
        return ids


@contextmanager
def serving(folder: Path, **parts: Any) -> Iterator[Site]:
    """A site; ``parts`` are further fields of ``Parts``."""
    behind = Administration(folder)
    limits = replace(LIMITS, max_body_bytes=2**16, max_upload_bytes=2**21)
    with (
        live_server(**{"limits": limits, **behind.parts(), **parts}) as server,
        httpx.Client(base_url=server.url, timeout=20) as http,
    ):
        yield Site(http, behind, server)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server for a whole module."""
    with serving(tmp_path_factory.mktemp("incoming")) as running:
        yield running


@pytest.fixture
def site(shared: Site, tmp_path: Path) -> Site:
    """The server with nothing behind it yet."""
    shared.behind.state.clear(tmp_path)
    return shared
