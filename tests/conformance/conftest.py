"""The engines that the suite runs on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.harness import FakeHarness, Harness

HARNESSES: dict[str, Callable[[], Harness]] = {"fake": FakeHarness}


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest) -> Harness:
    """Each engine in turn."""
    return HARNESSES[request.param]()
