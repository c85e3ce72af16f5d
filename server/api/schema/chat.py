"""The body of ``POST /v1/chat/completions``: the whole reference, and our three extensions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from server.api.schema.fields import (
    FalseOnly,
    GenerationRequest,
    Label,
    Metadata,
    Schema,
    ServiceTier,
    TextFormat,
    TextOnly,
    TokenCount,
    Unsupported,
    unsupported,
    wrong,
)

ROLES = ("system", "developer", "user", "assistant")
_LATER_ROLES = ("tool", "function")
_LATER_PARTS = ("image_url", "input_audio", "file", "refusal")


def _known_role(role: str) -> str:
    if role in _LATER_ROLES:
        raise unsupported(f"this server does not support the role '{role}' yet")
    if role not in ROLES:
        raise wrong(f"must be one of {', '.join(ROLES)}")
    return role


def _text_part(part_type: str) -> str:
    if part_type in _LATER_PARTS:
        raise unsupported(f"this server supports text parts only, not '{part_type}'")
    if part_type != "text":
        raise wrong("must be 'text'")
    return part_type


class TextPart(Schema):
    """One part of a message's content."""

    type: Annotated[str, AfterValidator(_text_part)]
    text: str


def _parts(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise wrong("must be a string or a list of at least one part")
    return content


class ChatMessage(Schema):
    """One message. A string as content is the same as one text part."""

    role: Annotated[str, AfterValidator(_known_role)]
    content: Annotated[list[TextPart], FailFast(), BeforeValidator(_parts)]
    name: Label | None = None
    refusal: Unsupported = None
    audio: Unsupported = None
    tool_calls: Unsupported = None
    tool_call_id: Unsupported = None
    function_call: Unsupported = None

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it; they call the developer the system."""
        role = "system" if self.role == "developer" else self.role
        message = {"role": role, "content": self.text}
        return message if self.name is None else {**message, "name": self.name}


class ChatRequest(GenerationRequest):
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
    response_format: TextFormat = None
    modalities: TextOnly = None
    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    moderation: Unsupported = None
    parallel_tool_calls: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @property
    def most_tokens(self) -> int | None:
        """``max_completion_tokens``, or ``max_tokens``, its older name; None for no limit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
