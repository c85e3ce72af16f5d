"""Tools, the choice among them, and calls of them in messages, as chat completions have them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from server.api.schema.fields import Schema, unsupported, wrong

MOST_TOOLS = 128
_CHOICES = ("none", "auto", "required")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_VARIABLES, _LONGEST_VARIABLES = 32, 16_384


def _function_only(kind: str) -> str:
    if kind == "custom":
        raise unsupported("this server supports function tools only, not 'custom'")
    if kind != "function":
        raise wrong("must be 'function'")
    return kind


def _tool_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise wrong("must be 1 to 64 letters, digits, underscores and hyphens")
    return name


def _choice(value: object) -> object:
    """A word as the object that it is short for, so that there is one form of a choice."""
    if isinstance(value, str):
        if value not in _CHOICES:
            raise wrong(f"must be one of {', '.join(_CHOICES)}, or an object")
        return {"type": value}
    if isinstance(value, dict) and value.get("type") in _CHOICES:
        raise wrong(
            "must be 'function' or 'allowed_tools' in an object; none, auto and required "
            "stand alone"
        )
    return value


def _choice_type(kind: str) -> str:
    if kind == "custom":
        raise unsupported("this server supports function tools only, not 'custom'")
    if kind not in (*_CHOICES, "function", "allowed_tools"):
        raise wrong("must be 'function' or 'allowed_tools'")
    return kind


def _bounded(value: object) -> object:
    if isinstance(value, dict):
        if len(value) > _MOST_VARIABLES:
            raise wrong(f"must have at most {_MOST_VARIABLES} entries")
        try:
            length = len(json.dumps(value))
        except RecursionError:
            raise wrong("is nested too deeply") from None
        if length > _LONGEST_VARIABLES:
            raise wrong(f"must take at most {_LONGEST_VARIABLES} characters as JSON")
    return value


ToolType = Annotated[str, AfterValidator(_function_only)]
ToolName = Annotated[str, AfterValidator(_tool_name)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
TemplateVariables = Annotated[dict[str, Any], BeforeValidator(_bounded)]


class Function(Schema):
    """What may be called, and the JSON schema of its arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Schema):
    """One of ``tools``."""

    type: ToolType
    function: Function


class NamedFunction(Schema):
    """A tool by its name."""

    name: str


class NamedTool(Schema):
    """One of the tools of ``allowed_tools``."""

    type: ToolType
    function: NamedFunction


class AllowedTools(Schema):
    """The tools that may be called this time."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_TOOLS)]


class ChoiceOfTool(Schema):
    """``tool_choice``. A word is an object of that type."""

    type: Annotated[str, AfterValidator(_choice_type)]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class CalledFunction(Schema):
    """A function with its arguments, JSON as the model wrote it."""

    name: ToolName
    arguments: str


class MessageCall(Schema):
    """A call in an assistant's message."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    type: ToolType = "function"
    function: CalledFunction


Tools = Annotated[list[FunctionTool], Field(min_length=1, max_length=MOST_TOOLS)]
ToolChoice = Annotated[
    ChoiceOfTool,
    BeforeValidator(
        _choice, json_schema_input_type=Literal["none", "auto", "required"] | ChoiceOfTool
    ),
]
MessageCalls = Annotated[list[MessageCall], Field(min_length=1, max_length=MOST_TOOLS)]
