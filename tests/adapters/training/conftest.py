"""The base that training tests share; they read it and never change it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.base.load import Base, load_base


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> Base:
    """The tiny base as it is served, in float32."""
    return load_base(tiny_model)
