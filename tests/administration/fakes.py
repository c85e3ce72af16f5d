"""Adapter management without training: the three ports of the admin routes on one state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.administration.chains import FakeChains
from tests.administration.datasets import FakeDatasets
from tests.administration.stages import FakeStages
from tests.administration.state import State


class Administration:
    """The three parts."""

    def __init__(self, folder: Path) -> None:
        self.state = State(folder)
        self.stages = FakeStages(self.state)
        self.chains = FakeChains(self.state)
        self.datasets = FakeDatasets(self.state)

    def parts(self) -> Mapping[str, Any]:
        """As fields of ``server.api.parts.Parts``."""
        return {"stages": self.stages, "chains": self.chains, "datasets": self.datasets}
