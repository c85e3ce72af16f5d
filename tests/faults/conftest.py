"""The tiny base, loaded once, and what a stage on it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.base.load import load_base
from tests.adapters.store.rig import unsynced
from tests.faults.runs import Undisturbed
from tests.faults.stages import Tools
from tests.training_rig import InlineDevice, linears_of


def quick_or_slow(count: int, quick: Iterable[int]) -> list[Any]:
    """The numbers from 1 to ``count`` as parameters; those that are not ``quick`` are slow."""
    chosen = set(quick)
    return [
        pytest.param(n, marks=() if n in chosen else pytest.mark.slow) for n in range(1, count + 1)
    ]


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk() -> Iterator[None]:
    """What is lost with the power is worked out, and what a killed process wrote is never lost."""
    with unsynced():
        yield


@pytest.fixture(scope="session")
def tools(tiny_model: Path, tiny_adapters: dict[str, Path]) -> Tools:
    """The tiny base on this thread."""
    base = load_base(tiny_model)
    device = InlineDevice(base.model)
    return Tools.load(tiny_model, tiny_adapters["a4"], device, linears_of(base.model))


@pytest.fixture(scope="session")
def undisturbed(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What every disturbed run is compared with."""
    return Undisturbed.make(tools, tmp_path_factory.mktemp("undisturbed"))
