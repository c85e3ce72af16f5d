"""The messages and tools of Anthropic's API as a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from server.api.chat_conversation import named_tools
from server.api.schema.messages import (
    CountTokensRequest,
    InputMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from server.api.schema.messages_tools import MessageTool
from server.core.conversation import Conversation, PastCall, Tool, Turn
from server.core.errors import InvalidRequest

_TURNS = "\n\n"
"""Between turns of one role in a row, which the reference makes one turn."""


def conversation_of(request: CountTokensRequest) -> Conversation:
    """The conversation; raises InvalidRequest where its calls, choice or end make no sense."""
    _check_results(request.messages)
    turns = [
        turn
        for index, message in enumerate(request.messages)
        for turn in _turns(message, f"messages[{index}]")
    ]
    if request.system:
        turns.insert(0, Turn("system", _text(request.system)))
    tools, required, single = _chosen(request)
    return Conversation(
        turns=tuple(_joined(turns)),
        tools=tools,
        required=required,
        most_calls=1 if single else None,
        ending="continue" if _is_begun(request.messages) else "open",
    )


def _turns(message: InputMessage, where: str) -> Iterator[Turn]:
    """Results first, each a turn of its own, then what the message says."""
    blocks = message.content
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    for result in results:
        failed = "Error: " if result.is_error else ""
        yield Turn("tool", failed + _text(result.content), answers=result.tool_use_id)
    if len(results) == len(blocks):
        return
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    calls = [
        PastCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    if (thoughts or calls) and message.role != "assistant":
        raise InvalidRequest(
            f"{where}.content: only messages of role assistant have blocks of thinking and "
            "tool_use.",
            param=f"{where}.content",
        )
    yield Turn(
        role=message.role,
        text=_text(block for block in blocks if isinstance(block, TextBlock)),
        reasoning="".join(thoughts) if thoughts else None,
        calls=tuple(calls),
    )


def _joined(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Turns of one role in a row as one; results stay apart."""
    waiting: Turn | None = None
    for turn in turns:
        if waiting is not None and waiting.role == turn.role != "tool":
            thoughts = [each for each in (waiting.reasoning, turn.reasoning) if each is not None]
            waiting = replace(
                waiting,
                text=_TURNS.join(text for text in (waiting.text, turn.text) if text),
                reasoning=_TURNS.join(thoughts) if thoughts else None,
                calls=waiting.calls + turn.calls,
            )
            continue
        if waiting is not None:
            yield waiting
        waiting = turn
    if waiting is not None:
        yield waiting


def _check_results(messages: Sequence[InputMessage]) -> None:
    """The message after calls begins with a result for each of them; nothing else has results."""
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message.role != "user":
            _require_none(waiting, index)
        _check_places(message, f"messages[{index}]", waiting)
        _require_none(waiting, index)
        waiting = [block.id for block in message.content if isinstance(block, ToolUseBlock)]
    _require_none(waiting, len(messages))


def _check_places(message: InputMessage, where: str, waiting: list[str]) -> None:
    """Takes those that have a result from ``waiting``."""
    said = False
    for place, block in enumerate(message.content):
        if not isinstance(block, ToolResultBlock):
            said = True
            continue
        param = f"{where}.content[{place}].tool_use_id"
        if block.tool_use_id not in waiting:
            raise InvalidRequest(
                f"{param}: the message before has no tool_use of that id that waits for its "
                "result.",
                param=param,
            )
        if said:
            param = f"{where}.content[{place}]"
            raise InvalidRequest(f"{param}: results of tools come first in a message.", param=param)
        waiting.remove(block.tool_use_id)


def _require_none(wanted: Sequence[str], index: int) -> None:
    if wanted:
        param = f"messages[{index - 1}].content"
        raise InvalidRequest(
            f"{param}: the tool_use {wanted[0][:64]!a} has no result; the next message must be the "
            "user's and begin with a tool_result for each.",
            param=param,
        )


def _chosen(request: CountTokensRequest) -> tuple[tuple[Tool, ...], bool, bool]:
    """The tools that may be called, whether one must be, and whether only once."""
    tools = tuple(_tool(tool) for tool in request.tools)
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].name"
            raise InvalidRequest(f"{param}: two tools have the name {name!a}.", param=param)
    choice = request.tool_choice
    if choice is None:
        return tools, False, False
    if choice.type == "none":
        return (), False, False
    single = bool(choice.disable_parallel_tool_use)
    if choice.type != "auto" and not tools:
        raise InvalidRequest("tool_choice needs tools to choose from.", param="tool_choice")
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequest("tool_choice.name: Field required.", param="tool_choice.name")
        return named_tools(tools, [("tool_choice.name", choice.name)]), True, True
    return tools, choice.type == "any", single


def _tool(tool: MessageTool) -> Tool:
    described = {} if tool.description is None else {"description": tool.description}
    function = {"name": tool.name, **described, "parameters": tool.input_schema}
    return Tool(function, strict=bool(tool.strict))


def _is_begun(messages: Sequence[InputMessage]) -> bool:
    """Whether the last message is the beginning of the answer."""
    last = messages[-1]
    if last.role != "assistant":
        return False
    where = f"messages[{len(messages) - 1}].content"
    text = _text(block for block in last.content if isinstance(block, TextBlock))
    if not text or text != text.rstrip():
        raise InvalidRequest(
            f"{where}: the answer goes on from a last message of the assistant, so it must have "
            "text, and must not end with white space.",
            param=where,
        )
    return True


def _text(blocks: Iterable[TextBlock]) -> str:
    return "".join(block.text for block in blocks)
