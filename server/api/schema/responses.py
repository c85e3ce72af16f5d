"""The body of ``POST /v1/responses``: the whole reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from server.api.schema.fields import (
    DrawingRequest,
    FalseOnly,
    Label,
    Metadata,
    ModelField,
    NoAdapters,
    Schema,
    TokenCount,
    Unsupported,
    unsupported,
    wrong,
)
from server.api.schema.formats import FormatName, ObjectFormat, PlainFormat
from server.api.schema.responses_items import Item
from server.api.schema.responses_tools import FunctionTools, Reasoning, ToolChoice
from server.api.schema.variants import by_type, known_type, variant

LOGPROBS = "message.output_text.logprobs"
"""The one value of ``include`` that means something here."""

_INCLUDABLE = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


def _items(value: object) -> object:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise wrong("must be a string or a list of at least one item")
    return value


def _includable(value: str) -> str:
    if value in _INCLUDABLE:
        raise unsupported(f"this server supports only '{LOGPROBS}'")
    if value != LOGPROBS:
        raise wrong(f"must be '{LOGPROBS}'")
    return value


def _medium_only(value: object) -> None:
    if value not in (None, "medium"):
        raise unsupported("this server supports only 'medium'")


class SchemaFormat(Schema):
    """JSON that follows a schema; it is held to it whatever ``strict`` says."""

    type: Literal["json_schema"]
    name: FormatName
    definition: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None
    description: str | None = None


Format = Annotated[
    Annotated[PlainFormat, variant("text")]
    | Annotated[ObjectFormat, variant("json_object")]
    | Annotated[SchemaFormat, variant("json_schema")],
    by_type(),
    BeforeValidator(known_type(["text", "json_object", "json_schema"], ["grammar", "python"])),
]


class TextConfig(Schema):
    """``text``."""

    format: Format = PlainFormat(type="text")
    verbosity: Annotated[Any, AfterValidator(_medium_only)] = None


Included = Annotated[
    list[Annotated[str, AfterValidator(_includable)]],
    BeforeValidator(lambda value: value or [], json_schema_input_type=list[str] | None),
]


Tier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]


class StreamOptions(Schema):
    """``stream_options``."""

    include_obfuscation: FalseOnly = None


Tools = Annotated[
    FunctionTools,
    BeforeValidator(lambda value: value or [], json_schema_input_type=FunctionTools | None),
]


class PromptRequest(Schema):
    """What of a request becomes tokens of the prompt: the body of ``/input_tokens``."""

    model: ModelField
    adapters: NoAdapters = None
    input: Annotated[
        list[Item], FailFast(), BeforeValidator(_items, json_schema_input_type=str | list[Item])
    ]
    instructions: str | None = None
    previous_response_id: Label | None = None
    reasoning: Reasoning | None = None
    text: TextConfig = TextConfig()
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: ToolChoice | None = None
    tools: Tools = Field(default_factory=list)
    conversation: Unsupported = None
    personality: Unsupported = None


class ResponsesRequest(PromptRequest, DrawingRequest):
    """The whole body of a request for a response."""

    background: bool | None = None
    include: Included = Field(default_factory=list)
    max_output_tokens: TokenCount | None = None
    metadata: Metadata | None = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    service_tier: Tier | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    user: Label | None = None
    access_programs: Unsupported = None
    background_options: Unsupported = None
    context_management: Unsupported = None
    image: Unsupported = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
