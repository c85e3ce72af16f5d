"""The engines that the suite runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.harness import FakeHarness, Harness
from tests.conformance.mlx_harness import MlxHarness


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"


@pytest.fixture(params=["fake", "mlx"])
def harness(
    request: pytest.FixtureRequest, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> Harness:
    """Each engine in turn."""
    if request.param == "fake":
        return FakeHarness()
    return MlxHarness(tiny_model, tiny_adapters["a4"])
