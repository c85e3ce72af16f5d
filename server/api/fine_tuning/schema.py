"""The body of ``POST /v1/fine_tuning/jobs``: strict, finite and bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from server.api.schema.fields import Metadata, ModelField, Schema, Unsupported, unsupported, wrong
from server.core.names import is_chain_name


def _auto(value: object) -> object:
    """``auto`` is what the absence of a value means."""
    return None if value == "auto" else value


def _only_supervised(value: object) -> object:
    if value in ("dpo", "reinforcement"):
        raise unsupported(f"this server trains by 'supervised' so far, not by {value!r}")
    if value != "supervised":
        raise wrong("must be 'supervised'")
    return value


def _chain_name(value: str) -> str:
    if not is_chain_name(value):
        raise wrong(
            "becomes a chain's name: letters, digits, '.', '_' and '-', at most 64, the first a "
            "letter or digit"
        )
    return value


Auto = BeforeValidator(_auto)
FileId = Annotated[str, Field(min_length=1, max_length=160)]
Suffix = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_chain_name)]
SupervisedOnly = Annotated[str, BeforeValidator(_only_supervised)]


class Hyperparameters(Schema):
    """How to train; None is ``auto``."""

    n_epochs: Annotated[Annotated[int, Field(ge=1, le=50)] | None, Auto] = None
    batch_size: Annotated[Annotated[int, Field(ge=1, le=256)] | None, Auto] = None
    learning_rate_multiplier: Annotated[Annotated[float, Field(gt=0, le=1000)] | None, Auto] = None


class Supervised(Schema):
    """``method.supervised``."""

    hyperparameters: Hyperparameters | None = None


class Method(Schema):
    """``method``."""

    type: SupervisedOnly
    supervised: Supervised | None = None
    dpo: Unsupported = None
    reinforcement: Unsupported = None


class JobBody(Schema):
    """``POST /v1/fine_tuning/jobs``. One of ``model`` and ``from_checkpoint`` is set."""

    model: ModelField | None = None
    from_checkpoint: ModelField | None = None
    training_file: FileId
    validation_file: FileId | None = None
    suffix: Suffix | None = None
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: Metadata | None = None
    integrations: Unsupported = None
