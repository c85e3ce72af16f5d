"""What fields of a chat completion owe to each other, beyond what each may hold."""

from __future__ import annotations

from collections.abc import Sequence

from server.api.schema.chat import ChatMessage, ChatRequest
from server.api.schema.tools import FunctionTool
from server.core.errors import InvalidRequest
from server.core.json_schema import check_schema


def check_chat(request: ChatRequest) -> None:
    """Raise InvalidRequest with the first field that contradicts another."""
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidRequest(
            "max_tokens and max_completion_tokens are two names of one limit and differ; give one.",
            param="max_completion_tokens",
        )
    _check_calls_answered(request.messages)
    if request.tools:
        _check_tools(request.tools, request)
    else:
        _check_without_tools(request)


def _check_tools(tools: Sequence[FunctionTool], request: ChatRequest) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function.name in seen:
            raise InvalidRequest(
                f"tools[{index}].function.name: there are two tools of the name "
                f"{tool.function.name!a}; give each its own.",
                param=f"tools[{index}].function.name",
            )
        seen.add(tool.function.name)
        _check_parameters(tool, f"tools[{index}].function.parameters", request)


def _check_parameters(tool: FunctionTool, where: str, request: ChatRequest) -> None:
    """Arguments are an object; a schema that they will be held to must be one that can be."""
    schema = tool.function.parameters or {}
    if schema.get("type", "object") != "object":
        raise InvalidRequest(f"{where}: the type must be 'object'.", param=where)
    choice = request.tool_choice
    forced = choice is not None and choice.type not in ("none", "auto")
    if tool.function.strict or forced:
        check_schema(schema, where)


def _check_without_tools(request: ChatRequest) -> None:
    choice = request.tool_choice
    if choice is not None and choice.type not in ("none", "auto"):
        raise InvalidRequest("tool_choice needs tools to choose from.", param="tool_choice")
    if request.parallel_tool_calls is not None:
        raise InvalidRequest(
            "parallel_tool_calls has no meaning without tools.", param="parallel_tool_calls"
        )


def _check_calls_answered(messages: Sequence[ChatMessage]) -> None:
    """Results follow the message with their calls, one for each, before anything else is said."""
    waiting: dict[str, int] = {}
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        _check_fields(message, where)
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise InvalidRequest(
                    f"{where}.tool_call_id: no call with that id is waiting for its result; it "
                    "must be one of the tool_calls of the assistant's message before.",
                    param=f"{where}.tool_call_id",
                )
            del waiting[message.tool_call_id]
            continue
        _check_none_waits(waiting)
        for number, call in enumerate(message.tool_calls or ()):
            if call.id in waiting:
                raise InvalidRequest(
                    f"{where}.tool_calls[{number}].id: two calls have the same id.",
                    param=f"{where}.tool_calls[{number}].id",
                )
            waiting[call.id] = index
    _check_none_waits(waiting)


def _check_none_waits(waiting: dict[str, int]) -> None:
    for call_id, index in waiting.items():
        raise InvalidRequest(
            f"messages[{index}].tool_calls: the call {call_id[:64]!a} has no result; a message of "
            "role 'tool' for each call must follow.",
            param=f"messages[{index}].tool_calls",
        )


def _check_fields(message: ChatMessage, where: str) -> None:
    """What only some roles have, and what they need."""
    for field, role in (
        ("tool_calls", "assistant"),
        ("reasoning_content", "assistant"),
        ("tool_call_id", "tool"),
    ):
        if getattr(message, field) is not None and message.role != role:
            raise InvalidRequest(
                f"{where}.{field}: only messages of role {role!a} have it.",
                param=f"{where}.{field}",
            )
    if message.role == "tool" and message.tool_call_id is None:
        raise missing(f"{where}.tool_call_id")
    if not message.content and message.tool_calls is None:
        raise InvalidRequest(
            f"{where}.content: Field required; only an assistant's message with tool_calls may go "
            "without.",
            param=f"{where}.content",
        )


def missing(param: str) -> InvalidRequest:
    """A field that the others make necessary."""
    return InvalidRequest(f"{param}: Field required.", param=param)
