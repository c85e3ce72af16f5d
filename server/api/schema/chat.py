"""The body of ``POST /v1/chat/completions``: the whole reference, and our extensions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, WithJsonSchema

from server.api.schema.fields import (
    FalseOnly,
    Label,
    Metadata,
    Schema,
    ServiceTier,
    TextOnly,
    TokenCount,
    Unsupported,
    unsupported,
    wrong,
)
from server.api.schema.formats import GuidedRequest
from server.api.schema.tools import Effort, MessageCalls, TemplateVariables, ToolChoice, Tools

ROLES = ("system", "developer", "user", "assistant", "tool")
_LATER_PARTS = ("image_url", "input_audio", "file", "refusal")


def _known_role(role: str) -> str:
    if role == "function":
        raise unsupported("this server does not support the deprecated 'function'; use 'tool'")
    if role not in ROLES:
        raise wrong(f"must be one of {', '.join(ROLES)}")
    return role


def _text_part(part_type: str) -> str:
    if part_type in _LATER_PARTS:
        raise unsupported(f"this server supports text parts only, not '{part_type}'")
    if part_type != "text":
        raise wrong("must be 'text'")
    return part_type


def _no_functions(value: object) -> None:
    if value is not None:
        raise unsupported(
            "this server does not support the deprecated field; use tools, tool_choice and "
            "tool_calls"
        )


NoFunctions = Annotated[
    Any, AfterValidator(_no_functions), WithJsonSchema({"type": "null", "deprecated": True})
]


class TextPart(Schema):
    """One part of a message's content."""

    type: Annotated[str, AfterValidator(_text_part)]
    text: str
    prompt_cache_breakpoint: Unsupported = None


def _parts(content: object) -> object:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise wrong("must be a string or a list of at least one part")
    return content


class ChatMessage(Schema):
    """One message. A string as content is the same as one text part, none as no part."""

    role: Annotated[str, AfterValidator(_known_role)]
    content: Annotated[
        list[TextPart],
        FailFast(),
        BeforeValidator(_parts, json_schema_input_type=str | list[TextPart] | None),
    ] = Field(default_factory=list)
    name: Label | None = None
    refusal: Unsupported = None
    audio: Unsupported = None
    tool_calls: MessageCalls | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    reasoning_content: str | None = None
    function_call: NoFunctions = None

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return "".join(part.text for part in self.content)


class ChatRequest(GuidedRequest):
    """The whole body."""

    messages: Annotated[list[ChatMessage], FailFast(), Field(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: Metadata | None = None
    service_tier: ServiceTier | None = None
    store: FalseOnly = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    modalities: TextOnly = None
    audio: Unsupported = None
    function_call: NoFunctions = None
    functions: NoFunctions = None
    moderation: Unsupported = None
    parallel_tool_calls: bool | None = None
    prediction: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Effort | None = None
    tool_choice: ToolChoice | None = None
    tools: Tools | None = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None
    chat_template_kwargs: TemplateVariables | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def most_tokens(self) -> int | None:
        """``max_completion_tokens``, or ``max_tokens``, its older name; None for no limit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
