"""What every attack starts from."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes import FakeEngine
from tests.server.api.serving import Served, serving


@pytest.fixture
def limits() -> dict[str, float]:
    """The settings under attack."""
    return {"max_body_bytes": 1 << 20}


@pytest.fixture
async def server(limits: dict[str, float]) -> AsyncIterator[Served]:
    """A server whose state must be clean afterwards.

    Whatever was sent, the server still answers, and nothing is left running or pinned.
    """
    async with serving(FakeEngine(), **limits) as served:
        yield served
        served.engine.release()
        assert (await served.chat(max_tokens=1)).status_code == 200
        await served.idle()
        stats = served.engine.stats()
        assert (stats.waiting, stats.decoding, served.pinned()) == (0, 0, {})
