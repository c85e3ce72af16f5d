"""The bodies of ``POST /v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from server.api.schema.fields import (
    DrawingRequest,
    Label,
    ModelField,
    NoAdapters,
    Schema,
    TokenCount,
    Unsupported,
    unsupported,
    wrong,
)
from server.api.schema.messages_tools import CacheControl, MessageTools, Thinking, ToolChoice
from server.api.schema.tools import ToolName
from server.api.schema.variants import by_type, known_type, variant

_MAX_STOPS = 64
_MAX_STOP_LENGTH = 256
_REFUSED_BLOCKS = frozenset(
    {
        "advisor_tool_result",
        "bash_code_execution_tool_result",
        "code_execution_tool_result",
        "compaction",
        "container_upload",
        "document",
        "image",
        "mcp_tool_result",
        "mcp_tool_use",
        "redacted_thinking",
        "search_result",
        "server_tool_use",
        "text_editor_code_execution_tool_result",
        "tool_reference",
        "tool_search_tool_result",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""Types of content blocks that the reference defines and this server does not take."""


def _standard_only(value: object) -> None:
    if value not in (None, "standard"):
        raise unsupported("this server has one speed, 'standard'")


def _stop_sequences(value: object) -> object:
    stops = [] if value is None else value
    if not (
        isinstance(stops, list)
        and len(stops) <= _MAX_STOPS
        and all(isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_LENGTH for stop in stops)
    ):
        raise wrong(
            f"must be a list of at most {_MAX_STOPS} strings, each of 1 to {_MAX_STOP_LENGTH} "
            "characters"
        )
    return tuple(stops)


def _blocks(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list) or not value:
        raise wrong("must be a string or a list of at least one content block")
    return value


def _result_blocks(value: object) -> object:
    return [] if value in (None, []) else _blocks(value)


def _direct_caller(value: object) -> None:
    if value not in (None, {"type": "direct"}):
        raise unsupported('this server supports only {"type": "direct"}')


class TextBlock(Schema):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Unsupported = None


CallId = Annotated[str, Field(min_length=1, max_length=512)]
ResultBlock = Annotated[TextBlock, BeforeValidator(known_type(["text"], _REFUSED_BLOCKS))]


class ToolUseBlock(Schema):
    """A call that an earlier message made."""

    type: Literal["tool_use"]
    id: CallId
    name: ToolName
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Annotated[Any, AfterValidator(_direct_caller)] = None
    toolset_name: Unsupported = None


class ToolResultBlock(Schema):
    """What a call has given. A string as content is the same as one text block."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Annotated[
        list[ResultBlock],
        FailFast(),
        BeforeValidator(_result_blocks, json_schema_input_type=str | list[ResultBlock] | None),
    ] = Field(default_factory=list)
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Unsupported = None


class ThinkingBlock(Schema):
    """What was thought before an earlier message. The signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


_TAKEN_BLOCKS = ("text", "tool_use", "tool_result", "thinking")
Block = Annotated[
    Annotated[TextBlock, variant("text")]
    | Annotated[ToolUseBlock, variant("tool_use")]
    | Annotated[ToolResultBlock, variant("tool_result")]
    | Annotated[ThinkingBlock, variant("thinking")],
    by_type(),
    BeforeValidator(known_type(_TAKEN_BLOCKS, _REFUSED_BLOCKS)),
]
Blocks = Annotated[
    list[Block], FailFast(), BeforeValidator(_blocks, json_schema_input_type=str | list[Block])
]
Texts = Annotated[
    list[TextBlock],
    FailFast(),
    BeforeValidator(_blocks, json_schema_input_type=str | list[TextBlock]),
]


class InputMessage(Schema):
    """One message. A string as content is the same as one text block."""

    role: Literal["user", "assistant", "system"]
    content: Blocks


class JsonFormat(Schema):
    """``output_config.format``: what the whole text must be."""

    type: Literal["json_schema"]
    definition: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Schema):
    """``output_config``."""

    effort: Unsupported = None
    format: JsonFormat | None = None


class Owner(Schema):
    """``metadata``."""

    user_id: Label | None = None


class CountTokensRequest(Schema):
    """What of a request becomes tokens of the prompt."""

    model: ModelField
    adapters: NoAdapters = None
    messages: Annotated[list[InputMessage], FailFast(), Field(min_length=1, max_length=100_000)]
    system: Texts = Field(default_factory=list)
    cache_control: CacheControl | None = None
    output_config: OutputConfig | None = None
    speed: Annotated[Any, AfterValidator(_standard_only)] = None
    thinking: Thinking | None = None
    tool_choice: ToolChoice | None = None
    tools: MessageTools = Field(default_factory=list)
    compaction: Unsupported = None
    context_management: Unsupported = None
    mcp_servers: Unsupported = None
    output_format: Unsupported = None
    user_profile_id: Unsupported = None
    workspace_id: Unsupported = None


class MessagesRequest(CountTokensRequest, DrawingRequest):
    """The whole body of a request for a message."""

    max_tokens: TokenCount
    metadata: Owner | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: Annotated[
        tuple[str, ...], BeforeValidator(_stop_sequences, json_schema_input_type=list[str] | None)
    ] = ()
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    billing_policy: Unsupported = None
    container: Unsupported = None
    diagnostics: Unsupported = None
    fallback_credit_token: Unsupported = None
    fallbacks: Unsupported = None
    inference_geo: Unsupported = None
    thread: Unsupported = None
