"""What a fine-tuning job asks for, as a stage of a chain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapters.errors import AdapterError
from adapters.lineage import JobRequest, NewStage, StoredFile
from server.api.files.asked import FINE_TUNE, file_id
from server.api.files.ports import Files
from server.api.fine_tuning.auto import chosen, settings_of
from server.api.fine_tuning.names import stage_of_job
from server.api.fine_tuning.ports import Jobs
from server.api.fine_tuning.schema import Hyperparameters, JobBody
from server.api.parts import Parts
from server.core.errors import InvalidRequest
from server.core.names import parse

_SEEDS = 2**31
_SUFFIX_LENGTH = 12
_OURS = {
    "dataset": "training_file",
    "validation_dataset": "validation_file",
    "name": "suffix",
}
"""Fields of a job by what a stage calls them; the rest is about the model."""


@dataclass(frozen=True, slots=True)
class _Line:
    """The chain that a job adds to: its name, the parent that it must still have, and the field
    that said so. ``begins``: there is no such chain yet."""

    chain: str
    parent: str | None
    field: str
    begins: bool = False


def new_stage(asked: JobBody, parts: Parts, files: Files, jobs: Jobs, base: str) -> NewStage:
    """The stage that a job is; blocks on the store.

    Raises InvalidRequest, UnknownModel, TwoAdapters, FileNotFound or StageNotFound with the field
    at fault.
    """
    line = _line(asked, parts, jobs, base)
    training = _file(files, asked.training_file, "training_file")
    validation = asked.validation_file and _file(files, asked.validation_file, "validation_file")
    if parts.datasets is None:
        raise RuntimeError("jobs need data sets")
    rows = parts.datasets.get(str(training.dataset)).rows
    seed = parts.draw_seed() % _SEEDS if asked.seed is None else asked.seed
    settings = settings_of(
        chosen(_hyperparameters(asked), rows),
        rows=rows,
        seed=seed,
        max_seq_length=parts.tokenizer.max_context,
        validates=bool(validation),
    )
    return NewStage(
        chain=line.chain,
        settings=settings,
        dataset=training.dataset,
        validation=validation.dataset if validation else None,
        parent=line.parent,
        job=JobRequest(
            model=str(asked.model or asked.from_checkpoint),
            training_file=training.id,
            validation_file=validation.id if validation else None,
            suffix=line.chain if line.begins else None,
            metadata=asked.metadata,
        ),
    )


@contextmanager
def in_words_of_jobs(asked: JobBody) -> Iterator[None]:
    """Errors of a stage name the field of the job that is at fault."""
    model = "model" if asked.from_checkpoint is None else "from_checkpoint"
    try:
        yield
    except AdapterError as error:
        if error.param in _OURS:
            error.param = _OURS[error.param]
        elif error.param in ("chain", "parent", "revision", "lora"):
            error.param = model
        raise


def _line(asked: JobBody, parts: Parts, jobs: Jobs, base: str) -> _Line:
    if asked.model is not None and asked.from_checkpoint is not None:
        raise InvalidRequest(
            "model and from_checkpoint both say what to go on from; give one of them.",
            param="from_checkpoint",
        )
    if asked.from_checkpoint is not None:
        line = _from_checkpoint(asked.from_checkpoint, parts, jobs, base)
    elif asked.model is not None:
        line = _from_model(asked.model, asked.suffix, parts, base)
    else:
        raise InvalidRequest("model: Field required.", param="model")
    if asked.suffix is not None and not line.begins:
        raise InvalidRequest(
            f"A job that goes on with a chain keeps its name, {base}:{line.chain}: leave suffix "
            "out. For a chain of another name, fork this one first (POST "
            f"/admin/chains/{line.chain}/fork).",
            param="suffix",
        )
    return line


def _from_model(model: str, suffix: str | None, parts: Parts, base: str) -> _Line:
    name = parse(model, served_name=base)
    if name.chain is None:
        return _Line(suffix or f"ft-{parts.new_id()[:_SUFFIX_LENGTH]}", None, "model", begins=True)
    parts.catalog.model(model)
    pin = name.label if name.stage is None else str(name.stage)
    return _Line(name.chain, pin, "model")


def _from_checkpoint(text: str, parts: Parts, jobs: Jobs, base: str) -> _Line:
    """A pin, the head as it is now, or the job that made one."""
    if text.startswith("ftjob-"):
        param = "from_checkpoint"
        stage = jobs.get(stage_of_job(text, param=param), param=param)
        return _Line(stage.chain, str(stage.number), "from_checkpoint")
    name = parse(text, served_name=base)
    if name.chain is None:
        raise InvalidRequest(
            "from_checkpoint: the base is no checkpoint; name it in model to begin a chain.",
            param="from_checkpoint",
        )
    root = parse(str(parts.catalog.model(text).root), served_name=base)
    return _Line(name.chain, str(root.stage), "from_checkpoint")


def _file(files: Files, text: str, param: str) -> StoredFile:
    file = files.get(file_id(text, param=param), param=param)
    if file.purpose != FINE_TUNE:
        raise InvalidRequest(
            f"{param}: {file.id} has the purpose {file.purpose!r}; upload rows with the purpose "
            f"{FINE_TUNE!r}.",
            param=param,
        )
    return file


def _hyperparameters(asked: JobBody) -> Hyperparameters:
    supervised = None if asked.method is None else asked.method.supervised
    given = None if supervised is None else supervised.hyperparameters
    if given is not None and asked.hyperparameters is not None:
        raise InvalidRequest(
            "hyperparameters is the old place of method.supervised.hyperparameters; give one.",
            param="hyperparameters",
        )
    return given or asked.hyperparameters or Hyperparameters()
