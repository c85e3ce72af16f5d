"""Tools, the choice among them, and thinking, as Anthropic's messages have them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from server.api.schema.fields import Schema, Unsupported, unsupported
from server.api.schema.tools import MOST_TOOLS, ToolName
from server.api.schema.variants import by_type, known_type, variant


def _custom_only(value: object) -> object:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind is not None and kind != "custom":
        raise unsupported(
            f"this server runs no tools of its own, such as {str(kind)[:64]!a}; it takes tools "
            "with a name and an input_schema"
        )
    return value


def _not_deferred(value: object) -> None:
    if value not in (None, False):
        raise unsupported("this server supports only false")


def _eager(value: object) -> None:
    if value not in (None, True):
        raise unsupported("this server streams inputs as they come; it supports only true")


def _direct(value: object) -> None:
    if value not in (None, ["direct"]):
        raise unsupported('this server supports only ["direct"]')


def _summarized(value: object) -> None:
    if value not in (None, "summarized"):
        raise unsupported("this server supports only 'summarized', and gives all that was thought")


class CacheControl(Schema):
    """A mark at a block. Prefixes are kept without it too, so it changes nothing."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class MessageTool(Schema):
    """A tool that the client runs."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None
    allowed_callers: Annotated[Any, AfterValidator(_direct)] = None
    defer_loading: Annotated[Any, AfterValidator(_not_deferred)] = None
    eager_input_streaming: Annotated[Any, AfterValidator(_eager)] = None
    input_examples: Unsupported = None


class ToolChoice(Schema):
    """``tool_choice``; ``name`` where the type is tool."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingOff(Schema):
    """No reasoning before the answer."""

    type: Literal["disabled"]


class ThinkingOn(Schema):
    """Reasoning within about so many tokens."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024)]
    display: Annotated[Any, AfterValidator(_summarized)] = None


class ThinkingAdaptive(Schema):
    """Reasoning as much as the model finds right."""

    type: Literal["adaptive"]
    display: Annotated[Any, AfterValidator(_summarized)] = None


MessageTools = Annotated[
    list[Annotated[MessageTool, BeforeValidator(_custom_only)]], Field(max_length=MOST_TOOLS)
]
Thinking = Annotated[
    Annotated[ThinkingOff, variant("disabled")]
    | Annotated[ThinkingOn, variant("enabled")]
    | Annotated[ThinkingAdaptive, variant("adaptive")],
    by_type(),
    BeforeValidator(known_type(["disabled", "enabled", "adaptive"], ["between_tools"])),
]
