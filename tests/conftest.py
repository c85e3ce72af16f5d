"""What every test starts from: a fast BLAS under MLX, one async backend, quiet Hypothesis."""

import adapters  # noqa: F401  # opens the BLAS, which must precede every import of mlx

# isort: split
import os

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.models"]

# Two shared cores: how long an example takes says nothing about the code.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"
