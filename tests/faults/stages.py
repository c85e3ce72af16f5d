"""One small stage on the tiny model, without a server: from the queue to its end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.base.fingerprint import fingerprint
from adapters.base.tokenizer import load_tokenizer
from adapters.formats.mlx_lm import read_adapter, write_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import NewStage, Origin, Stage, TrainSettings
from adapters.ports import Device, Tokenizer
from adapters.shape import BaseShape, Target
from adapters.stages.intake import Intake
from adapters.stages.run import Host
from adapters.stages.runner import Runner
from adapters.store import Store

CHAIN = "support"
SETTINGS = TrainSettings(
    iters=6,
    batch_size=2,
    learning_rate=5e-3,
    micro_batch_tokens=64,
    validation_split=0.2,
    eval_every=3,
    checkpoint_every=2,
    sample_every=4,
    seed=7,
)
ROWS = [
    {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word[::-1]}]}
    for word in ("salt", "rope", "keel", "mast", "sail", "tide", "deck", "hull", "knot", "wave")
]


@dataclass(frozen=True)
class Tools:
    """What every attempt works with, made once."""

    model: Path
    adapter: Path
    fingerprint: str
    tokenizer: Tokenizer
    device: Device
    linears: tuple[Target, ...]

    @classmethod
    def load(cls, model: Path, adapter: Path, device: Device, linears: tuple[Target, ...]) -> Tools:
        """For the tiny model, and an adapter that the chain begins with."""
        return cls(model, adapter, fingerprint(model), load_tokenizer(model), device, linears)

    def shape(self) -> BaseShape:
        """The base's, as the engine finds it."""
        config: dict[str, Any] = json.loads((self.model / "config.json").read_text())
        return BaseShape(config, self.linears, itemsize=4)


class Echo:
    """A sampler that needs no model."""

    def answer(
        self,
        prompt: str,
        adapter: Any | None,
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """The prompt again."""
        return f"{prompt}, {max_tokens}, {adapter is not None}"


@contextmanager
def opened(tools: Tools, directory: Path) -> Iterator[Store]:
    """A store on ``directory``; what a simulated death left open in it is given back."""
    clock = iter(range(1_800_000_000, 1_900_000_000))
    store = Store(directory, clock=lambda: float(next(clock)), base=tools.fingerprint)
    try:
        yield store
    finally:
        store.close()


def prepare(
    tools: Tools,
    directory: Path,
    *,
    rows: Sequence[Any] = ROWS,
    settings: TrainSettings = SETTINGS,
) -> Stage:
    """A data directory whose chain has a first revision and a queued second stage."""
    with opened(tools, directory) as store:
        files, temp = read_adapter(tools.adapter), store.revision_temp()
        write_adapter(temp, files)
        store.chains.import_revision(
            CHAIN,
            temp,
            revision_id(files),
            shape=files.shape,
            manifest={},
            origin=Origin.IMPORTED,
        )
        return queue(tools, store, rows=rows, settings=settings)


def queue(
    tools: Tools,
    store: Store,
    *,
    rows: Sequence[Any] = ROWS,
    settings: TrainSettings = SETTINGS,
) -> Stage:
    """One more stage, through the intake."""
    intake = Intake(store, tools.tokenizer, tools.shape, lambda: 1 << 40)
    samples = ("Hello",) if settings.sample_every is not None else ()
    return intake.add(NewStage(CHAIN, settings, examples=rows, samples=samples), None)


def host(tools: Tools, store: Store, device: Device | None = None) -> Host:
    """What a runner works with."""
    return Host(
        store,
        device or tools.device,
        Echo(),
        tools.tokenizer,
        tools.shape,
        {"build": 1},
        block_s=60.0,
    )


def run_here(tools: Tools, store: Store, device: Device | None = None) -> Stage:
    """Do on this thread what the runner's does until nothing is queued; the last stage."""
    runner = Runner(host(tools, store, device))
    runner._retry_s = 0.0
    while (stage := runner._claim()) is not None:
        runner._run(stage)
    return newest(store)


def run_in_thread(tools: Tools, store: Store, ended: Callable[[], None]) -> Runner:
    """The runner as the server has it; ``ended`` is called once the stage has ended."""

    def notify(stage_id: str) -> None:
        if store.stages.get(stage_id).state.is_final:
            ended()

    store.events.subscribe(notify)
    runner = Runner(host(tools, store))
    runner.start()
    return runner


def newest(store: Store) -> Stage:
    """The stage that was added last."""
    found: Stage = store.stages.list(chain=None, state=None, after=None, limit=1).data[0]
    return found


def figures(stage: Stage) -> dict[str, Any]:
    """The final figures that training itself reported."""
    return {name: stage.metrics[name] for name in ("steps", "loss", "trained_tokens")}


def outcome(stage: Stage) -> dict[str, Any]:
    """What of a stage does not depend on when and how often it was begun."""
    return {
        "state": str(stage.state),
        "revision": stage.revision,
        "parent": stage.parent,
        "number": stage.number,
        "validation_loss": stage.metrics.get("validation_loss"),
        "error": None if stage.error is None else dataclasses.asdict(stage.error),
    }
