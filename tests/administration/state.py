"""What the fake parts of adapter management share: all of it lies in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

from adapters.errors import (
    ChainNotFound,
    DataError,
    LineFault,
    RevisionNotFound,
    StageNotFound,
)
from adapters.lineage import (
    Chain,
    Dataset,
    NewStage,
    Stage,
    StageEvent,
)
from adapters.shape import LoraShape

BASE = "base-fingerprint"
SHAPE = LoraShape(8, 20.0, 16, ("self_attn.q_proj", "self_attn.v_proj"))


def bad_lines(*faults: LineFault) -> DataError:
    """The error for a data set with these lines."""
    text = "; ".join(f"line {one.line}: {one.reason}" for one in faults)
    return DataError(text, faults=faults)


class State:
    """What the three parts share."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.readers: list[Callable[[str], None]] = []
        self.ids = itertools.count(1)
        self.now = 1_700_000_000.5
        self.clear(folder)

    def clear(self, folder: Path) -> None:
        """Nothing has happened yet."""
        self.folder = folder
        self.stages: dict[str, Stage] = {}
        self.chains: dict[str, Chain] = {}
        self.datasets: dict[str, Dataset] = {}
        self.contents: dict[str, bytes] = {}
        self.events: list[StageEvent] = []
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.asked: list[NewStage] = []
        self.refusals: list[Exception] = []

    def stage(self, stage_id: str) -> Stage:
        """The stage, or StageNotFound."""
        try:
            return self.stages[stage_id]
        except KeyError:
            raise StageNotFound(f"There is no stage {stage_id!r}.") from None

    def chain(self, name: str) -> Chain:
        """The chain, or ChainNotFound."""
        try:
            return self.chains[name]
        except KeyError:
            raise ChainNotFound(f"There is no chain {name!r}.", param="chain") from None

    def of(self, chain: str) -> list[Stage]:
        """The chain's stages by number."""
        return [stage for stage in self.stages.values() if stage.chain == chain]

    def revision(self, chain: str, name: str) -> Stage:
        """The stage that ``name`` means, or RevisionNotFound."""
        label = str(self.chain(chain).labels.get(name, ""))
        for stage in self.of(chain):
            known = (str(stage.number), stage.revision)
            if (name in known or label == str(stage.number)) and stage.revision is not None:
                if stage.revision_deleted_at is not None:
                    raise RevisionNotFound(f"Revision {name} was deleted on 2026-01-02.")
                return stage
        raise RevisionNotFound(f"The chain {chain!r} has no revision {name!r}.", param="revision")
