"""What a job had learned at the ends of its last epochs: each a chain of its own.

OpenAI keeps the last three epochs of a job, each usable as a model. The last one is the job's
result. The others are no revisions of its chain, whose stages are whole: they are forks of it in
the middle of a stage, and like any fork are served, trained on, rolled back and deleted by
themselves. Until the job ends they are checkpoints to resume from, so that whatever interrupts it
loses none.
"""

from __future__ import annotations

from adapters.errors import AdapterFileError, ChainExists
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lineage import Origin, Stage
from adapters.shape import LoraShape
from adapters.stages.journal import Journal
from adapters.stages.written import written
from adapters.store import Store
from adapters.training.batches import Plan
from adapters.training.checkpoint import Checkpoint, read_checkpoint

KEPT = 3
"""Epochs, the last one with them."""
_LONGEST = 64
"""Characters of a chain's name."""


class Epochs:
    """The last epochs of one claimed stage; none where no job asked for it."""

    def __init__(self, store: Store, stage: Stage, journal: Journal, plan: Plan) -> None:
        self._store = store
        self._stage = stage
        self._journal = journal
        self.ends = _ends(stage, len(plan.steps))
        """Steps after which an epoch ended whose state is kept, rising; without the last."""

    def publish(self, shape: LoraShape) -> None:
        """Make each of them a chain; those that are there already stay.

        What cannot be published is warned of, and the job's result is not held up by it. Raises
        StorageFull and StoreError, after which all of it may be done again.
        """
        files = dict(self._store.checkpoints.newest_first(self._stage.id))
        for step in self.ends:
            name = chain_name(self._stage, step)
            try:
                if step not in files:
                    raise AdapterFileError("It was not kept.")
                self._publish(name, _adapter(read_checkpoint(files[step]), shape), step)
            except (AdapterFileError, ChainExists) as error:
                self._journal.warn(f"The checkpoint of step {step} is not published. {error}")

    def _publish(self, name: str, files: AdapterFiles, step: int) -> None:
        store, stage = self._store, self._stage
        directory, revision = written(store, files)
        loss, validation_loss = store.results.losses(stage.id, step)
        manifest = {
            "format": "chainlora manifest 1",
            "revision": revision,
            "base": stage.base,
            "origin": "forked",
            "stage_id": stage.id,
            "step": step,
        }
        record = {
            "checkpoint_of": stage.id,
            "step": step,
            "loss": loss,
            "validation_loss": validation_loss,
        }
        try:
            store.chains.import_revision(
                name,
                directory,
                revision,
                shape=files.shape,
                manifest=manifest,
                origin=Origin.FORKED,
                record=record,
            )
        except ChainExists:
            if store.chains.first(name).record.get("checkpoint_of") != stage.id:
                raise


def chain_name(stage: Stage, step: int) -> str:
    """``sailor-1-step-40`` of ``sailor@1``; a long name of the chain is cut to make room."""
    tail = f"-{stage.number}-step-{step}"
    return f"{stage.chain[: _LONGEST - len(tail)]}{tail}"


def _ends(stage: Stage, steps: int) -> tuple[int, ...]:
    request = stage.request
    if request is None or request.job is None or not request.settings.epochs:
        return ()
    epochs = request.settings.epochs
    in_epoch = steps // epochs
    return tuple(in_epoch * epoch for epoch in range(max(1, epochs - KEPT + 1), epochs))


def _adapter(checkpoint: Checkpoint, shape: LoraShape) -> AdapterFiles:
    paths = {name.rpartition(".")[0] for name in checkpoint.parameters}
    parts = checkpoint.parameters
    pairs = {path: (parts[f"{path}.lora_a"], parts[f"{path}.lora_b"]) for path in sorted(paths)}
    return AdapterFiles(shape, pairs)
