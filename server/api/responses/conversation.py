"""Items and tools of the Responses API as a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from server.api.chat_conversation import named_tools
from server.api.schema.responses import PromptRequest
from server.api.schema.responses_tools import AllowedTools, FunctionTool, NamedTool
from server.api.wire import Body
from server.core.conversation import Conversation, PastCall, Tool, Turn
from server.core.errors import InvalidRequest


def conversation_of(request: PromptRequest, items: Iterable[Body]) -> Conversation:
    """The conversation of ``items``, which end with the request's own.

    Raises InvalidRequest where calls and results or the choice of tools make no sense.
    """
    turns = list(_turns(items))
    _check_results(turns)
    if request.instructions is not None:
        turns.insert(0, Turn("system", request.instructions))
    tools, required, single = chosen(request)
    return Conversation(
        turns=tuple(turns), tools=tools, required=required, most_calls=1 if single else None
    )


def chosen(request: PromptRequest) -> tuple[tuple[Tool, ...], bool, bool]:
    """The tools that may be called, whether one must be, and whether only once."""
    tools = tuple(_tool(tool) for tool in request.tools)
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].name"
            raise InvalidRequest(f"{param}: two tools have the name {name!a}.", param=param)
    choice, single = request.tool_choice, request.parallel_tool_calls is False
    if choice is None or choice.type == "auto":
        return tools, False, single
    if choice.type == "none":
        return (), False, False
    if not tools:
        raise InvalidRequest("tool_choice needs tools to choose from.", param="tool_choice")
    if isinstance(choice, NamedTool):
        return named_tools(tools, [("tool_choice.name", choice.name)]), True, True
    if isinstance(choice, AllowedTools):
        allowed = [
            (f"tool_choice.tools[{index}].name", tool.name)
            for index, tool in enumerate(choice.tools)
        ]
        return named_tools(tools, allowed), choice.mode == "required", single
    return tools, True, single


def _tool(tool: FunctionTool) -> Tool:
    given = {"description": tool.description, "parameters": tool.parameters}
    function = {"name": tool.name, **{k: value for k, value in given.items() if value is not None}}
    return Tool(function, strict=bool(tool.strict))


def _turns(items: Iterable[Body]) -> Iterator[Turn]:
    """Thoughts, words and calls of one answer are items of their own, and one turn."""
    answer: Turn | None = None
    for item in items:
        grown = _grown(answer, item)
        if grown is not None:
            answer = grown
            continue
        if answer is not None:
            yield answer
        answer = _grown(Turn("assistant", ""), item)
        if answer is None:
            yield _other(item)
    if answer is not None:
        yield answer


def _grown(answer: Turn | None, item: Body) -> Turn | None:
    """``answer`` with ``item``; None where that does not belong to it."""
    if answer is None:
        return None
    fresh = not answer.text and not answer.calls
    match item["type"]:
        case "reasoning" if fresh:
            thoughts = "".join(part["text"] for part in item["content"])
            return replace(answer, reasoning=(answer.reasoning or "") + thoughts)
        case "message" if item["role"] == "assistant" and fresh:
            return replace(answer, text=_text(item))
        case "function_call":
            call = PastCall(item["call_id"], item["name"], item["arguments"])
            return replace(answer, calls=(*answer.calls, call))
        case _:
            return None


def _other(item: Body) -> Turn:
    if item["type"] == "function_call_output":
        return Turn("tool", item["output"], answers=item["call_id"])
    return Turn("user" if item["role"] == "user" else "system", _text(item))


def _text(item: Body) -> str:
    return "".join(part["text"] for part in item["content"])


def _check_results(turns: Sequence[Turn]) -> None:
    """Results follow the calls that they belong to, before anything else is said."""
    waiting: list[str] = []
    for turn in [*turns, Turn("user", "")]:
        if turn.answers is not None:
            if turn.answers not in waiting:
                raise InvalidRequest(
                    f"input: no function_call {turn.answers[:64]!a} waits for its "
                    "function_call_output; the call must stand before it.",
                    param="input",
                )
            waiting.remove(turn.answers)
            continue
        if waiting:
            raise InvalidRequest(
                f"input: the function_call {waiting[0][:64]!a} has no function_call_output; one "
                "for each call must follow before anything else.",
                param="input",
            )
        waiting = [call.id for call in turn.calls]
