"""One stage's training, from its first step to its last, on a device that it borrows in pieces."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from adapters.errors import AdapterFileError, AdapterMismatch, DataError, DeviceGone, NonFinite
from adapters.formats.arrays import from_mlx, to_mlx
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lineage import TrainSettings
from adapters.ports import Device
from adapters.training.batches import Example, Plan, micro_batches
from adapters.training.checkpoint import Checkpoint, settings_digest
from adapters.training.forms import Form
from adapters.training.loss import Batch, Sums, make_batch
from adapters.training.optimizer import Optimizer, Update
from adapters.training.schedule import learning_rate
from adapters.training.tree import TrainingTree
from adapters.training.trial import Trial

Result = TypeVar("Result")

_PROBE_ROWS, _PROBE_LENGTH = 2, 6


class Interrupted(Exception):
    """The stage was asked to stop; its state is that after the last whole step."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step that was done.

    ``step`` counts from 1 to ``steps``. ``loss`` is the mean over the step's supervised tokens in
    nats, before the update; ``grad_norm`` that of the mean gradient before clipping. ``tokens``
    counts the rows' tokens without padding, ``supervised`` those that were learned.
    """

    step: int
    steps: int
    loss: float
    tokens: int
    supervised: int
    seconds: float
    grad_norm: float
    learning_rate: float
    longest_piece_s: float


class Trainer:
    """Trains ``start`` on the base of ``device`` by ``plan``; one thread, not the device's.

    Everything that touches MLX runs in pieces on the device, one block of one micro-batch long at
    most where the model can be sliced; ``warnings`` says so where it cannot. Between two pieces
    ``should_stop`` is asked while a trainer is made, in ``steps`` and in ``validation_loss``: where
    it says yes, they raise Interrupted.

    The plan's steps index ``examples``; ``validation_examples`` are all the rows to measure on.
    With ``resume`` an earlier run's whole state is taken up.

    Raises AdapterMismatch where ``start`` does not fit the base or its own shape, AdapterFileError
    where ``resume`` belongs to another stage, StageError where the base has no gradient, DeviceGone
    where the device is gone.
    """

    def __init__(
        self,
        device: Device,
        examples: Sequence[Example],
        validation_examples: Sequence[Example],
        plan: Plan,
        settings: TrainSettings,
        start: AdapterFiles,
        resume: Checkpoint | None,
        stage_number: int,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if misfits := start.shape.misfits(start.targets):
            raise AdapterMismatch(f"The adapter contradicts its own shape: {misfits[0]}.")
        self._device = device
        self._examples = examples
        self._validation = validation_examples
        self._plan = plan
        self._settings = settings
        self._number = stage_number
        self._should_stop = should_stop
        self._clock = clock
        self._longest_piece_s = 0.0
        self._digests = (plan.digest(), settings_digest(settings, start.shape, stage_number))
        self.step = 0
        """Optimizer steps done."""
        self.warnings: tuple[str, ...] = ()
        self._tree: TrainingTree
        self._optimizer: Optimizer
        self._form: Form
        self._closed = False
        if resume is not None:
            self._check(resume, start)
        try:
            device.run(lambda base: self._build(base, start, resume))
            self._choose_form(_probe(examples))
        except BaseException:
            self.close()
            raise

    @property
    def form(self) -> str:
        """How micro-batches are computed: "sliced", or "whole" where the model cannot be sliced."""
        return self._form.name

    @property
    def has_validation(self) -> bool:
        """Whether there are rows to measure on."""
        return bool(self._validation)

    def steps(self) -> Iterator[StepReport]:
        """Do the remaining steps, one at each turn; the caller may leave after any of them.

        Raises NonFinite where loss, gradient or a parameter is not finite: the parameters are then
        those of the last good step.
        """
        while self.step < len(self._plan.steps):
            yield self._step()

    def validation_loss(self) -> float:
        """The mean loss a supervised token, in nats, in evaluation mode.

        Raises DataError where there is nothing to measure on, NonFinite where it is no number.
        """
        total, tokens = 0.0, 0
        lengths = [len(example.tokens) for example in self._validation]
        most = self._settings.micro_batch_tokens
        for micro_batch in micro_batches(range(len(lengths)), lengths, most):
            batch = make_batch([self._validation[row] for row in micro_batch.rows])
            tokens += len(batch.targets)
            sums = Sums()
            for piece in self._form.measuring(batch, sums):
                self._run(piece)
            total += self._run(sums.take_loss)
        if not tokens:
            raise DataError("There is no validation row with a supervised token.")
        if not math.isfinite(total):
            raise NonFinite(
                f"The validation loss after step {self.step} is not finite: training has diverged. "
                "Lower the learning rate, or warm up for longer."
            )
        return total / tokens

    def checkpoint(self) -> Checkpoint:
        """The state after the last whole step, on the host."""
        plan, settings = self._digests

        def piece() -> Checkpoint:
            return Checkpoint(
                step=self.step,
                plan=plan,
                settings=settings,
                parameters={k: from_mlx(v) for k, v in self._tree.parameters().items()},
                moments={k: from_mlx(v) for k, v in self._optimizer.moments().items()},
            )

        return self._device.run(_ignoring_the_base(piece))

    def adapter(self) -> AdapterFiles:
        """A and B after the last whole step, float32 on the host, the scale apart."""
        return self._device.run(lambda _base: self._tree.files())

    def close(self) -> None:
        """Give the device's memory back. Safe to call twice, and after the device is gone."""
        if self._closed:
            return
        self._closed = True
        try:
            self._device.run(_ignoring_the_base(self._free))
        except DeviceGone:
            return

    def _free(self) -> None:
        for name in ("_form", "_optimizer", "_tree"):
            vars(self).pop(name, None)
        mx.clear_cache()

    def _check(self, resume: Checkpoint, start: AdapterFiles) -> None:
        shapes = {
            f"{path}.{part}": array.shape
            for path, pair in start.tensors.items()
            for part, array in zip(("lora_a", "lora_b"), pair, strict=True)
        }
        plan, settings = self._digests
        misfits = resume.misfits(
            plan=plan, settings=settings, steps=len(self._plan.steps), shapes=shapes
        )
        if misfits:
            more = f" ({len(misfits) - 1} more)" if len(misfits) > 1 else ""
            raise AdapterFileError(
                f"The stage cannot go on from its checkpoint: {misfits[0]}{more}. Start it again "
                "from its parent."
            )

    def _build(self, base: Any, start: AdapterFiles, resume: Checkpoint | None) -> None:
        tree = TrainingTree(base, start)
        optimizer = Optimizer(
            tree.parameters(),
            weight_decay=self._settings.weight_decay,
            max_grad_norm=self._settings.max_grad_norm,
        )
        if resume is not None:
            tree.replace({name: to_mlx(array) for name, array in resume.parameters.items()})
            optimizer.restore(
                resume.step, {name: to_mlx(array) for name, array in resume.moments.items()}
            )
            mx.eval(tree.parameters())
            self.step = resume.step
        self._tree, self._optimizer = tree, optimizer

    def _choose_form(self, probe: Batch) -> None:
        trial = Trial(self._tree, probe)
        for piece in trial.pieces():
            self._run(piece)
        self._form = trial.form
        if trial.warning:
            self.warnings = (trial.warning,)

    def _step(self) -> StepReport:
        began = self._clock()
        self._longest_piece_s = 0.0
        micro_batches = self._plan.steps[self.step]
        sums = Sums()
        tokens = supervised = 0
        for index, micro_batch in enumerate(micro_batches):
            rows = [self._examples[row] for row in micro_batch.rows]
            batch = make_batch(rows)
            tokens += sum(len(row.tokens) for row in rows)
            supervised += len(batch.targets)
            place = (self._settings.seed, self._number, self.step, index)
            # Rows without a target add nothing.
            pieces = self._form.training(batch, sums) if len(batch.targets) else iter(())
            for piece in pieces:
                self._run(piece, place)
        if not supervised:
            raise DataError(f"No token of step {self.step + 1} is to be learned.")
        rate = learning_rate(self.step, len(self._plan.steps), self._settings)
        update = self._run(lambda: self._update(sums, supervised, rate))
        self.step += 1
        return StepReport(
            step=self.step,
            steps=len(self._plan.steps),
            loss=update.loss,
            tokens=tokens,
            supervised=supervised,
            seconds=self._clock() - began,
            grad_norm=update.gradient_norm,
            learning_rate=rate,
            longest_piece_s=self._longest_piece_s,
        )

    def _update(self, sums: Sums, tokens: int, rate: float) -> Update:
        parameters, update = self._optimizer.step(
            self._tree.parameters(), sums, tokens, rate, number=self.step + 1
        )
        self._tree.replace(parameters)
        sums.clear()
        return update

    def _run(self, piece: Callable[[], Result], place: tuple[int, ...] | None = None) -> Result:
        """``piece`` on the device, its dropout drawn for ``place``; None drops nothing."""

        def call(_base: Any) -> Result:
            self._tree.dropout.at = place
            began = self._clock()
            result = piece()
            self._longest_piece_s = max(self._longest_piece_s, self._clock() - began)
            return result

        if self._should_stop():
            raise Interrupted
        return self._device.run(call)


def _ignoring_the_base(piece: Callable[[], Result]) -> Callable[[Any], Result]:
    return lambda _base: piece()


def _probe(examples: Sequence[Example]) -> Batch:
    """A small batch of the data's own tokens, every token a target."""
    count = _PROBE_ROWS * (_PROBE_LENGTH + 1)
    found = [token for example in examples[:count] for token in example.tokens[:count]]
    table = np.resize(np.array(found, np.int32), (_PROBE_ROWS, _PROBE_LENGTH + 1))
    places = np.arange(_PROBE_ROWS * _PROBE_LENGTH, dtype=np.int32)
    return Batch(np.ascontiguousarray(table[:, :-1]), places, table[:, 1:].reshape(-1))
