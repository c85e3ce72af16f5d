"""What tests of training share: a device without a thread, rows, and a small plan over them."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
from mlx.nn.layers.base import Module

from adapters.base.load import Base
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lineage import TrainSettings
from adapters.lora.targets import linear_shape
from adapters.ports import Device
from adapters.shape import LoraShape, Target
from adapters.training.batches import Example, make_plan
from adapters.training.shape_growth import initial_adapter
from adapters.training.trainer import Trainer

Result = TypeVar("Result")

SHAPE = LoraShape(rank=4, scale=2.0, num_layers=2)
SETTINGS = TrainSettings(iters=6, batch_size=4, learning_rate=1e-2, micro_batch_tokens=48, seed=3)
VOCABULARY = 640


class InlineDevice:
    """Runs each piece at once on this thread; ``between`` is called before each with the model."""

    def __init__(self, model: Module, between: Callable[[Any], object] | None = None) -> None:
        self.model = model
        self.pieces = 0
        self._between = between

    def run(self, piece: Callable[[Any], Result]) -> Result:
        """``piece(model)``."""
        self.pieces += 1
        if self._between is not None:
            self._between(self.model)
        return piece(self.model)


def linears_of(model: Any) -> tuple[Target, ...]:
    """Every linear layer of a model, rank 0."""
    return tuple(
        Target(path, 0, *shape)
        for path, module in model.named_modules()
        if (shape := linear_shape(module)) is not None
    )


def make_examples(count: int = 10, *, seed: int = 0, longest: int = 14) -> list[Example]:
    """Rows of random tokens and lengths whose first tokens are the prompt."""
    draw = random.Random(seed)
    rows = []
    for line in range(1, count + 1):
        length = draw.randint(6, longest)
        prompt = draw.randint(1, 4)
        tokens = tuple(draw.randrange(3, VOCABULARY) for _ in range(length))
        rows.append(Example(tokens, (False,) * prompt + (True,) * (length - prompt), line))
    return rows


def bits(files: AdapterFiles) -> dict[str, tuple[bytes, bytes]]:
    """Every byte of an adapter."""
    return {path: (a.data, b.data) for path, (a, b) in files.tensors.items()}


def make_trainer(
    base: Base,
    *,
    device: Device | None = None,
    examples: Sequence[Example] | None = None,
    settings: TrainSettings = SETTINGS,
    shape: LoraShape = SHAPE,
    stage: int = 1,
    **changes: Any,
) -> Trainer:
    """A trainer of a first stage on ``base``; ``changes`` go to it as they are."""
    rows = make_examples() if examples is None else examples
    arguments: dict[str, Any] = {
        "start": initial_adapter(linears_of(base.model), shape, seed=settings.seed, stage=stage),
        "resume": None,
        "validation_examples": rows[:3],
    }
    plan = make_plan([len(row.tokens) for row in rows], settings, stage_number=stage)
    return Trainer(
        InlineDevice(base.model) if device is None else device,
        rows,
        plan=plan,
        settings=settings,
        stage_number=stage,
        **(arguments | changes),
    )


class ThreadDevice:
    """A device on a thread of its own, which loads the base and runs every piece."""

    base: Base

    def __init__(self, load: Callable[[], Base]) -> None:
        self._load = load
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        self.base = self._ask(self._load)
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)
        self._thread.join()

    def run(self, piece: Callable[[Any], Result]) -> Result:
        """``piece(model)`` on the thread."""
        return self._ask(lambda: piece(self.base.model))

    def _ask(self, call: Callable[[], Result]) -> Result:
        outcome: Future[Result] = Future()
        self._calls.put((call, outcome))
        return outcome.result()

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            call, outcome = asked
            try:
                outcome.set_result(call())
            except Exception as error:  # noqa: BLE001  # it belongs to whoever asked
                outcome.set_exception(error)
        mx.clear_streams()
