"""The items that go into a response: messages, calls, results and reasoning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field

from server.api.schema.fields import FalseOnly, Label, Schema, Unsupported, unsupported, wrong
from server.api.schema.tools import ToolName
from server.api.schema.variants import by_type, known_type, variant

_REFUSED_PARTS = frozenset({"input_audio", "input_file", "input_image", "refusal"})
_REFUSED_ITEMS = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "custom_tool_call",
        "custom_tool_call_output",
        "file_search_call",
        "image_generation_call",
        "item_reference",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
Status = Literal["in_progress", "completed", "incomplete"]


def _parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "input_text", "text": value}]
    if not isinstance(value, list) or not value:
        raise wrong("must be a string or a list of at least one part")
    return value


def _not_annotated(value: object) -> None:
    if value not in (None, []):
        raise unsupported("this server supports no annotations; leave them out")


def _direct_caller(value: object) -> None:
    if value not in (None, {"type": "direct"}):
        raise unsupported('this server supports only {"type": "direct"}')


CallId = Annotated[str, Field(min_length=1, max_length=512)]


class TextPart(Schema):
    """Text that goes in, or that came out before."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[Any, AfterValidator(_not_annotated)] = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: Unsupported = None


Part = Annotated[
    TextPart, BeforeValidator(known_type(["input_text", "output_text"], _REFUSED_PARTS))
]


class MessageItem(Schema):
    """A message. A string as content is the same as one part."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        list[Part], FailFast(), BeforeValidator(_parts, json_schema_input_type=str | list[Part])
    ]
    id: Label | None = None
    status: Status | None = None
    phase: Unsupported = None

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return "".join(part.text for part in self.content)


class CallItem(Schema):
    """A call that an earlier response made; the arguments are JSON as the model wrote it."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: str
    id: Label | None = None
    status: Status | None = None
    runs_async: Annotated[FalseOnly, Field(alias="async")] = None
    caller: Annotated[Any, AfterValidator(_direct_caller)] = None
    created_by: Unsupported = None
    namespace: Unsupported = None


class CallOutputItem(Schema):
    """What a call has given. A string as output is the same as one part."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Annotated[
        list[Part], FailFast(), BeforeValidator(_parts, json_schema_input_type=str | list[Part])
    ]
    id: Label | None = None
    status: Status | None = None
    caller: Annotated[Any, AfterValidator(_direct_caller)] = None
    created_by: Unsupported = None
    name: str | None = None
    namespace: Unsupported = None

    @property
    def text(self) -> str:
        """The output, its parts joined."""
        return "".join(part.text for part in self.output)


class ThoughtPart(Schema):
    """Reasoning, or a summary of it."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Schema):
    """What was thought before an earlier answer."""

    type: Literal["reasoning"]
    summary: list[ThoughtPart] = Field(default_factory=list)
    content: list[ThoughtPart] | None = None
    id: Label | None = None
    status: Status | None = None
    encrypted_content: Unsupported = None

    @property
    def text(self) -> str:
        """The reasoning, else its summary."""
        return "".join(part.text for part in self.content or self.summary)


_TAKEN_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
AnyItem = MessageItem | CallItem | CallOutputItem | ReasoningItem
Item = Annotated[
    Annotated[MessageItem, variant("message")]
    | Annotated[CallItem, variant("function_call")]
    | Annotated[CallOutputItem, variant("function_call_output")]
    | Annotated[ReasoningItem, variant("reasoning")],
    by_type("message"),
    BeforeValidator(known_type(_TAKEN_ITEMS, _REFUSED_ITEMS, default="message")),
]
