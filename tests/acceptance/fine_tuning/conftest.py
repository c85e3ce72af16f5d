"""One server for all the tests of a module: each names its own chains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.acceptance.extending.product import Product, serving


@pytest.fixture(scope="module")
def product(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The tiny model, served from an empty data directory."""
    with serving(tiny_model, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(product: Product) -> Iterator[OpenAI]:
    """OpenAI's client, which never repeats a request."""
    with OpenAI(base_url=f"{product.url}/v1", api_key="none", max_retries=0) as client:
        yield client
