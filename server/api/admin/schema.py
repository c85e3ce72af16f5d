"""The bodies of ``/admin``: strict, finite and bounded; a field that nobody defines is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from adapters.lineage import LoraRequest, NewStage, TrainSettings
from server.api.schema.fields import Unsupported, unsupported, wrong
from server.api.schema.read import refusal
from server.api.strict_json import JsonObject
from server.core.errors import InvalidRequest
from server.core.names import is_chain_name

MAX_STAGE = 999_999_999
"""The highest stage number that a model name can pin."""

_SETTINGS = tuple(TrainSettings.__dataclass_fields__)


def _chain_name(name: str) -> str:
    if not is_chain_name(name):
        raise wrong(
            "must be letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
        )
    return name


def _only_publish(value: object) -> None:
    if value is not None and value != "publish":
        raise unsupported("this server supports only 'publish' so far")


def _no_files(value: object) -> None:
    if value is not None:
        raise unsupported(
            "files are named in POST /v1/fine_tuning/jobs; name the data set here, as dataset"
        )


def _named_revision(value: object) -> object:
    """A stage number may be written as a number; everything else is text."""
    if type(value) is int:
        if not 1 <= value <= MAX_STAGE:
            raise wrong(f"must be a stage number from 1 to {MAX_STAGE}, a revision id or a label")
        return str(value)
    if not isinstance(value, str):
        raise wrong("must be a stage number, a revision id or a label")
    return value


def _layer_count(value: int) -> int:
    if value == 0:
        raise wrong("must be -1 for all blocks, or at least 1")
    return value


def _rows(value: object) -> object:
    """Whether rows are objects; what is in them is checked with the data, line by line."""
    if not isinstance(value, list) or not value:
        raise wrong("must be a list of at least one row")
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise wrong(f"row {index} must be an object")
    return value


Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
"""A data set's or revision's id, or a label; the pattern goes to Rust's engine, not to ``re``."""
RevisionName = Annotated[Id, BeforeValidator(_named_revision, json_schema_input_type=int | Id)]
ChainName = Annotated[str, AfterValidator(_chain_name)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Prompt = Annotated[str, Field(min_length=1, max_length=8192)]
Key = Annotated[str, Field(min_length=1, max_length=256)]
NoFile = Annotated[Any, AfterValidator(_no_files), WithJsonSchema({"type": "null"})]


class AdminSchema(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class LoraBody(AdminSchema):
    """``lora``: the shape of a chain's first stage, or growth."""

    rank: Annotated[int, Field(ge=1, le=4096)] | None = None
    scale: Annotated[float, Field(gt=0, le=10_000)] | None = None
    num_layers: Annotated[int, Field(ge=-1, le=1_000_000), AfterValidator(_layer_count)] | None = (
        None
    )
    keys: Annotated[list[Key], Field(min_length=1, max_length=256)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    def asked(self) -> LoraRequest:
        """The same as adapter management has it."""
        keys = None if self.keys is None else tuple(self.keys)
        return LoraRequest(self.rank, self.scale, self.num_layers, keys, self.dropout)


class StageBody(AdminSchema):
    """``POST /admin/stages``. None of a setting is its default in ``TrainSettings``."""

    chain: ChainName
    dataset: Id | None = None
    examples: Annotated[list[dict[str, Any]], BeforeValidator(_rows)] | None = None
    validation_dataset: Id | None = None
    parent: RevisionName | None = None
    lora: LoraBody | None = None
    samples: Annotated[list[Prompt], Field(max_length=16)] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    iters: Count | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=10)] | None = None
    max_grad_norm: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    max_seq_length: Annotated[int, Field(ge=2, le=10_000_000)] | None = None
    micro_batch_tokens: Count | None = None
    validation_split: Annotated[float, Field(ge=0, lt=1)] | None = None
    eval_every: Count | None = None
    checkpoint_every: Count | None = None
    sample_every: Count | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    strategy: Literal["continue"] | None = None
    on_success: Annotated[
        Any, AfterValidator(_only_publish), WithJsonSchema({"enum": ["publish", None]})
    ] = None
    training_file: NoFile = None
    validation_file: NoFile = None
    replay: Unsupported = None
    gate: Unsupported = None

    def asked(self) -> NewStage:
        """The stage that is asked for; raises InvalidRequest where fields contradict each other."""
        self._check_together()
        given = {name: getattr(self, name) for name in _SETTINGS}
        settings = {name: value for name, value in given.items() if value is not None}
        if self.iters is None and self.epochs is None:
            settings["epochs"] = 1
        return NewStage(
            chain=self.chain,
            settings=TrainSettings(**settings),
            dataset=self.dataset,
            examples=self.examples,
            validation=self.validation_dataset,
            parent=self.parent,
            lora=None if self.lora is None else self.lora.asked(),
            samples=tuple(self.samples or ()),
            priority=self.priority or 0,
        )

    def _check_together(self) -> None:
        if (self.dataset is None) == (self.examples is None):
            raise InvalidRequest("Give either dataset or examples.", param="dataset")
        if self.iters is not None and self.epochs is not None:
            raise InvalidRequest(
                "iters and epochs are two measures of one length; give one.", param="epochs"
            )
        if self.validation_dataset is not None and self.validation_split:
            raise InvalidRequest(
                "validation_split has no meaning beside validation_dataset; give one.",
                param="validation_split",
            )
        held_out = self.validation_dataset is not None or bool(self.validation_split)
        if self.eval_every is not None and not held_out:
            raise InvalidRequest(
                "eval_every needs something to evaluate on: validation_dataset or "
                "validation_split.",
                param="eval_every",
            )
        if self.sample_every is not None and not self.samples:
            raise InvalidRequest(
                "sample_every needs prompts to answer: samples.", param="sample_every"
            )


class Nothing(AdminSchema):
    """A body without fields."""


class RollbackBody(AdminSchema):
    """``POST /admin/chains/{chain}/rollback``."""

    revision: RevisionName


class ForkBody(AdminSchema):
    """``POST /admin/chains/{chain}/fork``; without ``revision``, the head."""

    name: ChainName
    revision: RevisionName | None = None


class PruneBody(AdminSchema):
    """``POST /admin/chains/{chain}/prune``."""

    keep_last: Annotated[int, Field(ge=0, le=MAX_STAGE)]


class LabelBody(AdminSchema):
    """``PUT /admin/chains/{chain}/labels/{label}``."""

    revision: RevisionName


Body = TypeVar("Body", bound=AdminSchema)


def checked(schema: type[Body], payload: JsonObject) -> Body:
    """``payload`` by ``schema``.

    Raises InvalidRequest or UnsupportedField with the path of the first field at fault.
    """
    try:
        return schema.model_validate(payload)
    except ValidationError as error:
        raise refusal(error) from None
