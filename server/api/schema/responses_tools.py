"""Tools, the choice among them, and reasoning, as the Responses API has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from server.api.schema.fields import FalseOnly, Schema, Unsupported, unsupported, wrong
from server.api.schema.tools import MOST_TOOLS, ToolName
from server.api.schema.variants import by_type, known_type, variant

_HOSTED = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use_preview",
        "custom",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "namespace",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""Types of tools that the reference has and nobody runs here."""

_WORDS = ("none", "auto", "required")


def _direct(value: object) -> None:
    if value not in (None, ["direct"]):
        raise unsupported('this server supports only ["direct"]')


def _choice(value: object) -> object:
    """A word as the object that it is short for."""
    if isinstance(value, str):
        if value not in _WORDS:
            raise wrong(f"must be one of {', '.join(_WORDS)}, or an object")
        return {"type": value}
    if isinstance(value, dict) and value.get("type") in _WORDS:
        raise wrong("none, auto and required stand alone, as strings")
    return value


class FunctionTool(Schema):
    """A function that the client runs."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Annotated[Any, AfterValidator(_direct)] = None
    runs_async: Annotated[FalseOnly, Field(alias="async")] = None
    defer_loading: FalseOnly = None
    output_schema: Unsupported = None


class NamedTool(Schema):
    """One of ``tools`` by its name."""

    type: Literal["function"]
    name: str


Named = Annotated[NamedTool, BeforeValidator(known_type(["function"], _HOSTED))]


class Word(Schema):
    """``none``, ``auto`` or ``required``."""

    type: Literal["none", "auto", "required"]


class AllowedTools(Schema):
    """The tools that may be called this time."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[Named], Field(min_length=1, max_length=MOST_TOOLS)]


class Reasoning(Schema):
    """``reasoning``."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    context: Unsupported = None
    generate_summary: Unsupported = None
    mode: Unsupported = None
    summary: Unsupported = None


FunctionTools = Annotated[
    list[Annotated[FunctionTool, BeforeValidator(known_type(["function"], _HOSTED))]],
    Field(max_length=MOST_TOOLS),
]
ToolChoice = Annotated[
    Annotated[Word, variant("none")]
    | Annotated[Word, variant("auto")]
    | Annotated[Word, variant("required")]
    | Annotated[NamedTool, variant("function")]
    | Annotated[AllowedTools, variant("allowed_tools")],
    by_type(),
    BeforeValidator(known_type([*_WORDS, "function", "allowed_tools"], _HOSTED)),
    BeforeValidator(
        _choice,
        json_schema_input_type=Literal["none", "auto", "required"] | NamedTool | AllowedTools,
    ),
]
