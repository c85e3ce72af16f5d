"""One server for all the tests of a module: each names its own chains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.extending.product import Product, serving


@pytest.fixture(scope="module")
def product(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The tiny 4-bit model, served from an empty data directory."""
    with serving(tiny_model, tmp_path_factory.mktemp("data")) as running:
        yield running
