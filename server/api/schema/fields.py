"""The types of request fields: strict, finite and bounded.

The whole reference stands in the schemas: a field that it defines and that this server cannot
honour has the type ``Unsupported`` there, so that it is refused by name instead of ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from server.core.errors import TwoAdapters
from server.core.names import ONE_ADAPTER

UNSUPPORTED = "unsupported"
"""Type of the validation errors that become UnsupportedField."""

MODEL_LENGTH = 512
"""Characters of a model's name, which errors repeat."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
_MAX_STOPS = 4
_MAX_STOP_LENGTH = 256


class Schema(BaseModel):
    """A JSON object. Fields that it does not define are kept in ``model_extra``."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


def unsupported(why: str) -> PydanticCustomError:
    """A validation error that is reported as UnsupportedField."""
    return PydanticCustomError(UNSUPPORTED, "{why}", {"why": why})


def wrong(why: str) -> PydanticCustomError:
    """A validation error with a text of our own."""
    return PydanticCustomError("wrong", "{why}", {"why": why})


def _must_be_absent(value: object) -> None:
    if value is not None:
        raise unsupported("this server does not support the field; leave it out")


def _must_be_text_only(value: object) -> None:
    if value is not None and value != ["text"]:
        raise unsupported('this server supports only ["text"]')


def _must_be_false(value: object) -> None:
    if value is not None and value is not False:
        raise unsupported("this server supports only false")


def _one_model(value: object) -> object:
    if isinstance(value, list):
        raise TwoAdapters(f"'model' is a list; {ONE_ADAPTER}", param="model")
    return value


def _no_adapters(value: object) -> None:
    if value is not None:
        raise TwoAdapters(
            f"Name the adapter in 'model', as in base:chain, not in 'adapters': {ONE_ADAPTER}",
            param="adapters",
        )


def _stops(value: object) -> object:
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    if len(stops) > _MAX_STOPS or not all(
        isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_LENGTH for stop in stops
    ):
        raise wrong(
            f"must be a string or at most {_MAX_STOPS} strings, each of 1 to {_MAX_STOP_LENGTH} "
            "characters"
        )
    return tuple(stops)


def _at_most(count: int) -> Callable[[object], object]:
    """Checked before the entries are, so that a million wrong ones cost nothing."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > count:
            raise wrong(f"must have at most {count} entries")
        return value

    return check


def _token_keys(value: dict[str, float]) -> dict[str, float]:
    if not all(_TOKEN_ID.fullmatch(key) for key in value):
        raise wrong('must have token ids as keys, as in {"42": -100}')
    return value


_ABSENT = WithJsonSchema({"type": "null", "description": "Not supported here; leave it out."})
Unsupported = Annotated[Any, AfterValidator(_must_be_absent), _ABSENT]
TextOnly = Annotated[
    Any, AfterValidator(_must_be_text_only), WithJsonSchema({"enum": [["text"], None]})
]
FalseOnly = Annotated[Any, AfterValidator(_must_be_false), WithJsonSchema({"enum": [False, None]})]
_Stop = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_LENGTH)]
ModelField = Annotated[
    Annotated[str, Field(min_length=1, max_length=MODEL_LENGTH)], BeforeValidator(_one_model)
]
NoAdapters = Annotated[Any, AfterValidator(_no_adapters), _ABSENT]
Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(
        _stops,
        json_schema_input_type=_Stop | Annotated[list[_Stop], Field(max_length=_MAX_STOPS)] | None,
    ),
]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[dict[str, Bias], BeforeValidator(_at_most(1024)), AfterValidator(_token_keys)]
Label = Annotated[str, Field(max_length=512)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(_at_most(16)),
]


class StreamOptions(Schema):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: FalseOnly = None


class DrawingRequest(Schema):
    """How to draw, and when to start: the same for every API, by its reference or beside it."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    priority: Priority | None = None


class GenerationRequest(DrawingRequest):
    """What chat completions and completions have in common."""

    model: ModelField
    adapters: NoAdapters = None
    stop: Stops = ()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    user: Label | None = None

    @property
    def choices(self) -> int:
        """How many texts are asked for of each prompt."""
        return 1 if self.n is None else self.n


ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
