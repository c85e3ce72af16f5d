"""A store with the tiny base, and stages that run on the test's own thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.base.load import Base
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import StageError
from adapters.lineage import NewStage, Stage, TrainSettings
from adapters.lora.targets import linear_targets
from adapters.shape import BaseShape
from adapters.stages.asks import Ask
from adapters.stages.intake import Intake
from adapters.stages.run import Host, StageRun
from adapters.states import StageState
from adapters.store import Store
from tests.training_rig import InlineDevice

ROWS = [
    {"prompt": f"What is {name}?", "completion": f" A {name}{' indeed' * length}."}
    for length, name in enumerate(("dough", "yeast", "crust", "flour", "salt", "water"))
]
SETTINGS = TrainSettings(iters=6, batch_size=2, checkpoint_every=2)


class Answers:
    """A Sampler; ``during`` runs while it answers."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.prompts: list[str] = []
        self._during = during

    def answer(
        self,
        prompt: str,
        _adapter: Any,
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """A fixed answer, refused once the stage is to stop."""
        self.prompts.append(prompt)
        self._during()
        if should_stop():
            raise StageError("stopped")
        return "yes"[:max_tokens]


class Site:
    """A store with the tiny base, and stages on it."""

    def __init__(self, store: Store, base: Base, directory: Path) -> None:
        self.store = store
        self.device = InlineDevice(base.model)
        self._shape = BaseShape(base.config, linear_targets(base.model), 4)
        self._tokenizer = load_tokenizer(directory)
        self._intake = Intake(store, self._tokenizer, lambda: self._shape, lambda: 10**9)

    def claim(self, **fields: Any) -> Stage:
        """A new stage, claimed."""
        new = {"chain": "bread", "settings": SETTINGS, "examples": ROWS, **fields}
        self._intake.add(NewStage(**new), None)
        return self.claimed()

    def claimed(self) -> Stage:
        """The next stage."""
        stage = self.store.claim()
        assert stage is not None
        return stage

    def run(
        self,
        stage: Stage,
        asked: Callable[[], Ask | None] = lambda: None,
        sampler: Answers | None = None,
    ) -> StageState:
        """Run a claimed stage on this thread."""
        host = Host(
            self.store,
            self.device,
            sampler or Answers(),
            self._tokenizer,
            lambda: self._shape,
            build={},
            block_s=60.0,
        )
        return StageRun(host, stage, asked).run()

    def steps(self, stage: Stage) -> Sequence[int]:
        """The steps that its events tell of."""
        events = self.store.events.after(stage.id, 0, 1000)
        return [event.data["step"] for event in events if event.kind == "step"]
