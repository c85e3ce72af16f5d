"""What a chain is made of: stages, revisions, and the requests that ask for more of them.

Values only: the rules that need the whole table live in ``adapters.store``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from adapters.shape import LoraShape
from adapters.states import StageState

Json = Mapping[str, Any]
"""A JSON object."""


class Origin(enum.StrEnum):
    """How a stage came to be."""

    TRAINED = "trained"
    IMPORTED = "imported"
    """Its revision came from elsewhere, as the chain's first."""
    FORKED = "forked"
    """Its revision is another chain's, as the chain's first."""


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """The LoRA shape that a stage asks for, as in LoraShape.

    None is the parent's value; for a chain's first stage, the default.
    """

    rank: int | None = None
    scale: float | None = None
    num_layers: int | None = None
    keys: tuple[str, ...] | None = None
    dropout: float | None = None


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a stage trains. One of ``iters`` (optimizer steps) and ``epochs`` is set, never both.

    ``batch_size`` counts rows per optimizer step; they are computed in micro-batches of at most
    ``micro_batch_tokens`` tokens, padding included (at least one row each). ``warmup_steps`` None
    is a twentieth of all steps. ``max_grad_norm`` 0 switches clipping off. ``validation_split`` is
    the share of rows that is held out where no validation data are given. ``eval_every``,
    ``checkpoint_every`` and ``sample_every`` count optimizer steps; None evaluates at the start
    and the end, and samples at the end.
    """

    iters: int | None = None
    epochs: int | None = None
    batch_size: int = 8
    learning_rate: float = 2e-4
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_seq_length: int = 2048
    micro_batch_tokens: int = 512
    validation_split: float = 0.0
    eval_every: int | None = None
    checkpoint_every: int = 50
    sample_every: int | None = None
    seed: int = 0
    strategy: Literal["continue"] = "continue"


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a fine-tuning job was asked in OpenAI's words, as far as a stage has no word for it.

    ``model`` is the name that was asked for. ``suffix`` names the chain that the job begins, which
    must hold nothing yet; None goes on with one. ``training_file`` and ``validation_file`` are ids
    of files, as they were given.
    """

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class StageRequest:
    """What a stage was asked to do; kept with it for ever.

    ``dataset`` and ``validation`` are dataset ids. ``parent`` is the revision id that must still
    be the head when the stage starts; None takes whatever the head is then. Higher ``priority``
    runs first among stages of different chains. ``job`` is there where a fine-tuning job asked.
    """

    chain: str
    dataset: str
    settings: TrainSettings
    validation: str | None = None
    parent: str | None = None
    lora: LoraRequest | None = None
    samples: tuple[str, ...] = ()
    priority: int = 0
    job: JobRequest | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a stage failed: a stable code and a sentence that says how to mend it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is: ``loss`` is that of its last step, in nats.

    Times are seconds. None is where nothing can be said yet.
    """

    step: int = 0
    steps: int = 0
    trained_tokens: int = 0
    tokens_per_s: float | None = None
    left_s: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run of a chain, as the store knows it.

    ``base`` is the base's fingerprint. ``parent`` is the revision that it started from, None
    before it starts and for a first stage. ``revision`` is set once it is published and stays set
    after that revision's files are deleted, when ``revision_deleted_at`` says since when.
    ``unavailable`` says why its revision cannot be served though it was not deleted.
    ``request`` is None for a stage that was not trained. ``metrics`` holds final figures
    (``loss``, ``validation_loss``, ``trained_tokens`` ...), ``record`` what a rerun needs to be
    bit-equal (versions, BLAS, threads, the plan's digest). Times are Unix seconds. ``fence`` is
    the token that the latest claim got.
    """

    id: str
    chain: str
    number: int
    base: str
    origin: Origin
    state: StageState
    created_at: float
    request: StageRequest | None = None
    parent: str | None = None
    revision: str | None = None
    revision_deleted_at: float | None = None
    unavailable: str | None = None
    shape: LoraShape | None = None
    progress: Progress = field(default_factory=Progress)
    metrics: Json = field(default_factory=dict)
    record: Json = field(default_factory=dict)
    error: Fault | None = None
    started_at: float | None = None
    finished_at: float | None = None
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """A named line of stages on one base.

    ``head`` is the number of the stage whose revision ``base:chain`` resolves to, None before the
    first one is published; ``unavailable`` is that stage's. ``labels`` maps a label to a stage
    number.
    """

    name: str
    base: str
    created_at: float
    head: int | None = None
    head_revision: str | None = None
    unavailable: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revision:
    """An immutable adapter directory: its content id, its shape, its size in bytes."""

    id: str
    shape: LoraShape
    nbytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class StageEvent:
    """Something that happened to a stage. ``id`` rises over all stages and is never used again.

    ``kind`` is "state" (data: ``state``), "step" (``step``, ``loss``, ``tokens_per_s``,
    ``left_s``, ...), "validation" (``step``, ``loss``), "sample" (``step``, ``prompt``,
    ``answer``, ``parent_answer``), "checkpoint" (``step``) or "warning" (``message``).
    """

    id: int
    stage: str
    at: float
    kind: str
    data: Json


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training rows as they were sent: JSONL, stored under the SHA-256 of their bytes (``id``)."""

    id: str
    nbytes: int
    rows: int
    created_at: float
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of ``/v1/files``: a name for the bytes of a data set, or what a stage measured.

    One of ``dataset`` (a data set id) and ``stage`` (a stage id) is set. ``fault`` says why its
    bytes cannot be used. Times are Unix seconds; at ``expires_at`` it is gone.
    """

    id: str
    filename: str
    purpose: str
    nbytes: int
    created_at: float
    expires_at: float | None = None
    dataset: str | None = None
    stage: str | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, in order, and whether more follows."""

    data: Sequence[Any]
    has_more: bool


@dataclass(frozen=True, slots=True)
class NewStage:
    """A stage as it is asked for, before its data are checked and its parent is looked up.

    Exactly one of ``dataset`` (a data set id) and ``examples`` (rows in the JSONL forms) is set.
    ``parent`` names a revision of the chain: a stage number, a revision id or a label.
    """

    chain: str
    settings: TrainSettings
    dataset: str | None = None
    examples: Sequence[Json] | None = None
    validation: str | None = None
    parent: str | None = None
    lora: LoraRequest | None = None
    samples: tuple[str, ...] = ()
    priority: int = 0
    job: JobRequest | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's Idempotency-Key on one route, and the digest of the body that came with it."""

    route: str
    key: str
    digest: str
