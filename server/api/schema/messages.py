"""The bodies of ``POST /v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from server.api.schema.fields import (
    Label,
    ModelField,
    NoAdapters,
    Schema,
    TokenCount,
    Unsupported,
    unsupported,
    wrong,
)
from server.api.schema.variants import known_type

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
        "thinking",
        "tool_reference",
        "tool_result",
        "tool_search_tool_result",
        "tool_use",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""Types of content blocks that the reference defines and this server does not take."""


def _standard_only(value: object) -> None:
    if value not in (None, "standard"):
        raise unsupported("this server has one speed, 'standard'")


def _thinking_off(value: object) -> None:
    if value is not None and value != {"type": "disabled"}:
        raise unsupported('this server supports only {"type": "disabled"} so far')


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


class CacheControl(Schema):
    """A mark at a block. Prefixes are kept without it too, so it changes nothing."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Schema):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Unsupported = None


Block = Annotated[TextBlock, BeforeValidator(known_type(["text"], _REFUSED_BLOCKS))]
Blocks = Annotated[list[Block], FailFast(), BeforeValidator(_blocks)]
Texts = Annotated[list[TextBlock], FailFast(), BeforeValidator(_blocks)]


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
    thinking: Annotated[Any, AfterValidator(_thinking_off)] = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    compaction: Unsupported = None
    context_management: Unsupported = None
    mcp_servers: Unsupported = None
    output_format: Unsupported = None
    user_profile_id: Unsupported = None
    workspace_id: Unsupported = None


class MessagesRequest(CountTokensRequest):
    """The whole body of a request for a message."""

    max_tokens: TokenCount
    metadata: Owner | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: Annotated[tuple[str, ...], BeforeValidator(_stop_sequences)] = ()
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    billing_policy: Unsupported = None
    container: Unsupported = None
    diagnostics: Unsupported = None
    fallback_credit_token: Unsupported = None
    fallbacks: Unsupported = None
    inference_geo: Unsupported = None
    thread: Unsupported = None
