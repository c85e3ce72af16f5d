"""One stage from its claim to its end: train, checkpoint, evaluate, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from adapters.errors import StageError, StoreError
from adapters.formats.mlx_lm import AdapterFiles
from adapters.growth import resolve_shape
from adapters.lineage import Json, Stage, StageRequest
from adapters.ports import Device, Sampler, Tokenizer
from adapters.shape import BaseShape, LoraShape
from adapters.stages.asks import Ask, left_in
from adapters.stages.epochs import Epochs
from adapters.stages.journal import Journal
from adapters.stages.resuming import last_checkpoint
from adapters.stages.revisions import read_revision
from adapters.stages.samples import Samples
from adapters.stages.written import written
from adapters.states import StageState
from adapters.store import Store
from adapters.training.batches import Example, Plan, make_plan, tokens_of
from adapters.training.checkpoint import write_checkpoint
from adapters.training.dataset import tokenise
from adapters.training.shape_growth import grow, initial_adapter
from adapters.training.trainer import Interrupted, StepReport, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Host:
    """What a stage works with.

    ``base`` is known once the engine has loaded it. ``build`` names what bit-equality depends on:
    versions, BLAS, threads. A piece that takes longer than ``block_s`` seconds is warned of.
    """

    store: Store
    device: Device
    sampler: Sampler
    tokenizer: Tokenizer
    base: Callable[[], BaseShape]
    build: Json
    block_s: float


class StageRun:
    """One claimed stage. Made and run on the runner's thread."""

    def __init__(self, host: Host, stage: Stage, asked: Callable[[], Ask | None]) -> None:
        if stage.request is None:
            raise StageError(f"Stage {stage.id} was not trained here; there is nothing to run.")
        self._host = host
        self._stage = stage
        self._request: StageRequest = stage.request
        self._asked = asked
        self._store = host.store
        self._journal = Journal(host.store, stage)
        self._samples = Samples(
            host.sampler, self._journal, stage.request.samples, self._should_stop
        )
        self._warned = False
        self._parent: AdapterFiles | None = None

    def run(self) -> StageState:
        """Work until the stage has ended, or was left early; the state that it is in then.

        Raises AdapterError for what makes the stage fail, StoreError and OSError for what can be
        mended and the stage resumed after, DeviceGone where it must be given back.
        """
        try:
            trainer = self._prepare()
        except Interrupted:
            return self._leave(None)
        try:
            for warning in trainer.warnings:
                self._journal.warn(warning)
            self._train(trainer)
            self._move(StageState.EVALUATING)
            return self._publish(trainer)
        except Interrupted:
            return self._leave(trainer)
        finally:
            trainer.close()

    def _prepare(self) -> Trainer:
        """The trainer, at the stage's start or at its last checkpoint."""
        request, stage, store = self._request, self._stage, self._store
        settings = request.settings
        examples = self._examples(request.dataset)
        validation = None if request.validation is None else self._examples(request.validation)
        lengths = [len(each.tokens) for each in examples]
        plan = make_plan(
            lengths,
            settings,
            stage_number=stage.number,
            validation_rows=None if validation is None else len(validation),
        )
        self._plan = plan
        self._epochs = Epochs(store, stage, self._journal, plan)
        self._parent = self._read_parent()
        start = self._start()
        self._remember(plan, start.shape)
        trainer = Trainer(
            self._host.device,
            examples,
            [examples[row] for row in plan.validation] if validation is None else validation,
            plan,
            settings,
            start,
            last_checkpoint(store, stage, self._journal),
            stage.number,
            should_stop=self._should_stop,
        )
        self._journal.begin(tokens_of(plan, lengths, settings.batch_size, trainer.step))
        return trainer

    def _read_parent(self) -> AdapterFiles | None:
        """The parent's parameters, in the shape that this chain gives them.

        Another chain may have published the same parameters first, its directory saying the same
        in other words: every layer of the last 16 blocks, or all blocks.
        """
        stage, store = self._stage, self._store
        if stage.parent is None:
            return None
        files = read_revision(store, stage.parent)
        shape = store.chains.resolve(stage.chain, stage.parent).shape
        return files if shape is None else replace(files, shape=shape)

    def _start(self) -> AdapterFiles:
        """What step 0 computes with: the parent's parameters, grown where asked for."""
        request = self._request
        parent = None if self._parent is None else self._parent.shape
        shape = resolve_shape(parent, request.lora)
        seed = request.settings.seed
        linears = self._host.base().linears
        number = self._stage.number
        if self._parent is None:
            return initial_adapter(linears, shape, seed=seed, stage=number)
        return grow(self._parent, linears, shape, seed=seed, stage=number)

    def _examples(self, dataset: str) -> Sequence[Example]:
        return tokenise(
            self._store.datasets.path(dataset),
            self._host.tokenizer,
            self._request.settings,
            before_row=self._stop_if_asked,
        )

    def _remember(self, plan: Plan, shape: LoraShape) -> None:
        """Write down what makes a rerun bit-equal, or compare with what was written."""
        now = {"plan": plan.digest(), "build": dict(self._host.build)}
        before = self._stage.record
        if before and before.get("plan") != now["plan"]:
            raise StageError(
                "The batches planned now are not those that this stage began with; the data set "
                "or the program has changed. Cancel the stage and add it again."
            )
        if before and before.get("build") != now["build"]:
            self._journal.warn(
                "This stage began on another build (versions, BLAS, threads): it continues, and "
                "is not bit-equal to an undisturbed run."
            )
        fence = self._stage.fence
        self._store.stages.record(
            self._stage.id, fence, shape=shape, record=None if before else now
        )

    def _train(self, trainer: Trainer) -> None:
        settings, stage = self._request.settings, self._stage
        if trainer.step == 0:
            self._validate(trainer)
            self._samples.ask_parent(self._parent)
        for report in trainer.steps():
            self._journal.step(report)
            self._watch_pieces(report)
            last = report.step == report.steps
            epoch = report.step in self._epochs.ends
            if not last and _due(report.step, settings.sample_every):
                self._samples.ask(trainer.adapter, report.step, self._parent)
            if not last and (epoch or _due(report.step, settings.eval_every)):
                self._validate(trainer)
            if last or epoch or _due(report.step, settings.checkpoint_every):
                self._keep(trainer)
        log.info("stage %s of %s is trained: %d steps", stage.id, stage.chain, trainer.step)

    def _watch_pieces(self, report: StepReport) -> None:
        """Say once that requests wait longer than was promised; a first step also warms up."""
        if self._warned or report.step == 1 or report.longest_piece_s <= self._host.block_s:
            return
        self._warned = True
        self._journal.warn(
            f"A piece of this stage takes {1000 * report.longest_piece_s:.0f} ms, train_block_ms "
            f"is {1000 * self._host.block_s:.0f}: so long may a request wait that arrives "
            "meanwhile. Lower micro_batch_tokens (now "
            f"{self._request.settings.micro_batch_tokens}) for shorter pieces, or shorten the rows."
        )

    def _keep(self, trainer: Trainer) -> None:
        """A checkpoint: the file first, the row second."""
        state = trainer.checkpoint()
        name = f"step-{trainer.step:08d}.safetensors"
        directory = self._store.checkpoints.directory(self._stage.id)
        write_checkpoint(directory / name, state)
        self._store.checkpoints.add(
            self._stage.id, self._stage.fence, trainer.step, name, kept=self._epochs.ends
        )
        self._journal.tell("checkpoint", step=trainer.step)

    def _validate(self, trainer: Trainer) -> float | None:
        if not trainer.has_validation:
            return None
        loss = trainer.validation_loss()
        self._journal.tell("validation", step=trainer.step, loss=loss)
        return loss

    def _publish(self, trainer: Trainer) -> StageState:
        """Evaluate, write, read back, compare, and make it the head in one transaction."""
        stage, store = self._stage, self._store
        validation_loss = self._validate(trainer)
        self._samples.ask(trainer.adapter, trainer.step, self._parent)
        self._stop_if_asked()  # for the last time: from here on it is published
        files = trainer.adapter()
        self._epochs.publish(files.shape)
        directory, revision = written(store, files)
        metrics = {
            "steps": trainer.step,
            "loss": self._journal.loss,
            "validation_loss": validation_loss,
            "trained_tokens": self._journal.trained_tokens,
        }
        manifest = {
            "format": "chainlora manifest 1",
            "revision": revision,
            "base": stage.base,
            "chain": stage.chain,
            "stage": stage.number,
            "stage_id": stage.id,
            "parent": stage.parent,
            "dataset": self._request.dataset,
            "settings": asdict(self._request.settings),
            "metrics": metrics,
            "record": {"plan": self._plan.digest(), "build": dict(self._host.build)},
        }
        ended = store.chains.publish(
            stage.id,
            stage.fence,
            revision,
            directory,
            shape=files.shape,
            manifest=manifest,
            metrics=metrics,
        )
        return ended.state

    def _leave(self, trainer: Trainer | None) -> StageState:
        """End, pause or give back the stage, as it was asked."""
        state = left_in(self._asked())
        if trainer is not None and state is not StageState.CANCELLED:
            try:
                self._keep(trainer)
            except StoreError:  # a full disk: what was done since the last one is done once more
                log.exception("stage %s leaves without a new checkpoint", self._stage.id)
        self._move(state)
        return state

    def _should_stop(self) -> bool:
        return self._asked() is not None

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise Interrupted

    def _move(self, state: StageState) -> None:
        self._store.stages.transition(self._stage.id, state, fence=self._stage.fence)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
