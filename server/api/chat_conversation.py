"""The messages and tools of a chat completion as a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from server.api.schema.chat import ChatMessage, ChatRequest
from server.api.schema.check_chat import missing
from server.api.schema.tools import ChoiceOfTool, FunctionTool
from server.core.conversation import Conversation, PastCall, Role, Tool, Turn
from server.core.errors import InvalidRequest

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""Chat templates call the developer the system."""


def conversation_of(request: ChatRequest) -> Conversation:
    """The conversation; raises InvalidRequest where its choice or its end makes no sense."""
    tools = tuple(_tool(tool) for tool in request.tools or ())
    offered, required, named = _chosen(tools, request.tool_choice)
    single = named or request.parallel_tool_calls is False
    return Conversation(
        turns=tuple(_turns(request.messages)),
        tools=offered,
        required=required,
        most_calls=1 if single else None,
        variables=request.chat_template_kwargs or {},
        ending=_ending(request),
    )


def _tool(tool: FunctionTool) -> Tool:
    """The function in the client's own words, which is how training data has it too."""
    defined = tool.function.model_dump(exclude_unset=True)
    known = type(tool.function).model_fields
    function = {key: value for key, value in defined.items() if key in known and value is not None}
    return Tool(function, strict=bool(tool.function.strict))


def _chosen(
    tools: tuple[Tool, ...], choice: ChoiceOfTool | None
) -> tuple[tuple[Tool, ...], bool, bool]:
    """The tools that may be called, whether one must be, and whether it is that one."""
    if choice is None or choice.type == "auto":
        return tools, False, False
    if choice.type == "none":
        return (), False, False
    if choice.type == "required":
        return tools, True, False
    if choice.type == "function":
        if choice.function is None:
            raise missing("tool_choice.function")
        return named_tools(tools, [("tool_choice.function.name", choice.function.name)]), True, True
    if choice.allowed_tools is None:
        raise missing("tool_choice.allowed_tools")
    allowed = [
        (f"tool_choice.allowed_tools.tools[{index}].function.name", tool.function.name)
        for index, tool in enumerate(choice.allowed_tools.tools)
    ]
    return named_tools(tools, allowed), choice.allowed_tools.mode == "required", False


def named_tools(tools: Sequence[Tool], names: Sequence[tuple[str, str]]) -> tuple[Tool, ...]:
    """Those of ``tools`` that ``names`` ask for, each a request's field with the name in it."""
    known = {tool.name for tool in tools}
    for param, name in names:
        if name not in known:
            raise InvalidRequest(f"{param}: none of the tools has that name.", param=param)
    wanted = {name for _, name in names}
    return tuple(tool for tool in tools if tool.name in wanted)


def _turns(messages: Sequence[ChatMessage]) -> Iterator[Turn]:
    for message in messages:
        yield Turn(
            role=_ROLES[message.role],
            text=message.text,
            name=message.name,
            reasoning=message.reasoning_content,
            calls=tuple(
                PastCall(call.id, call.function.name, call.function.arguments)
                for call in message.tool_calls or ()
            ),
            answers=message.tool_call_id,
        )


def _ending(request: ChatRequest) -> Literal["open", "continue", "closed"]:
    if not request.continue_final_message:
        return "closed" if request.add_generation_prompt is False else "open"
    if request.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message goes on with the last message, and add_generation_prompt "
            "begins a new one; ask for one of them.",
            param="add_generation_prompt",
        )
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls is not None or not last.text:
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant, with text to go on "
            "from and without tool_calls.",
            param="continue_final_message",
        )
    return "continue"
