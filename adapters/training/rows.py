"""Rows of training data: what a line of JSONL may be, and what is wrong with one.

A row is one of three forms, and a data set keeps to one of them:

* chat: ``{"messages": [...], "tools": [...]}``. Roles are system, developer (to a chat template
  the system, as when serving), user, assistant and tool. Every assistant message is learned
  but those with ``"weight": 0``;
* ``{"prompt": ..., "completion": ...}``: a chat of one user and one assistant message, as mlx-lm
  takes it, hence only for a base with a chat template;
* ``{"text": ...}``: all of it is learned.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.errors import DataError, LineFault
from adapters.training.jsonl import BadLine, parse_object

SHOWN_FAULTS = 50
"""Faults in the message of a DataError; neighbours with one reason count as one."""
MAX_FAULTS = 10_000
"""Faults that a DataError keeps; the rest is counted."""

_FORMS = {"chat": "messages", "prompt": "prompt", "text": "text"}
_KEYS = {
    "chat": frozenset({"messages", "tools"}),
    "prompt": frozenset({"prompt", "completion"}),
    "text": frozenset({"text"}),
}
_PREFERENCE = frozenset({"preferred_completion", "non_preferred_completion"})
_MESSAGE_KEYS = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "weight", "tool_calls"}),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
}


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A conversation as chat templates know it. ``learned[i]``: message i is to be learned."""

    line: int
    messages: tuple[Mapping[str, Any], ...]
    learned: tuple[bool, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class TextRow:
    """Plain text, all of it to be learned."""

    line: int
    text: str


Row = ChatRow | TextRow


class Faults:
    """Collects what is wrong with a data set, so that all of it is told at once."""

    def __init__(self) -> None:
        self._kept: list[LineFault] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, line: int, reason: str) -> None:
        """Line ``line`` cannot be used; lines come in order."""
        self._count += 1
        if self._count <= MAX_FAULTS:
            self._kept.append(LineFault(line, reason))

    def raise_any(self) -> None:
        """Raise DataError with everything that was added; nothing where nothing was."""
        if not self._kept:
            return
        one = self._count == 1
        texts = [f"{self._count:,} {'line' if one else 'lines'} of the data cannot be used."]
        told = 0
        groups = itertools.groupby(enumerate(self._kept), key=lambda at: _run(*at))
        for (_, reason), members in itertools.islice(groups, SHOWN_FAULTS):
            lines = [fault.line for _, fault in members]
            told += len(lines)
            names = f"Line {lines[0]}" if len(lines) == 1 else f"Lines {lines[0]} to {lines[-1]}"
            texts.append(f"{names}: {reason}.")
        if told < self._count:
            texts.append(f"{self._count - told:,} more lines are not shown.")
        raise DataError("\n".join(texts), faults=tuple(self._kept))


def read_rows(lines: Iterable[bytes], faults: Faults) -> Iterator[Row]:
    """The rows of a data set one by one; what is wrong goes to ``faults``.

    ``lines`` are without their breaks. The first good row decides the form of all.
    """
    first: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        try:
            value = parse_object(line)
            form = _form(value)
            row = _PARSERS[form](number, value)
            first = first or (number, form)
            if form != first[1]:
                raise BadLine(
                    f"is a {form} row and line {first[0]} is a {first[1]} row: a data set keeps to "
                    "one form"
                )
            yield row
        except BadLine as error:
            faults.add(number, str(error))
    if first is None and not faults:
        raise DataError("The data have no rows.")


def check_rows(lines: Iterable[bytes]) -> list[Row]:
    """The rows of a data set; raises DataError with every line that is wrong."""
    faults = Faults()
    rows = list(read_rows(lines, faults))
    faults.raise_any()
    return rows


def _run(index: int, fault: LineFault) -> tuple[int, str]:
    """The same for neighbouring lines that have one reason."""
    return fault.line - index, fault.reason


def _form(value: Mapping[str, Any]) -> str:
    """Which form the row has, by its keys; raises BadLine where it has none."""
    for form, key in _FORMS.items():
        if key not in value:
            continue
        if unknown := sorted(value.keys() - _KEYS[form]):
            known = " and ".join(sorted(_KEYS[form]))
            raise BadLine(f"has the unknown key {unknown[0][:64]!a}; a {form} row has {known}")
        return form
    if value.keys() & _PREFERENCE:
        raise BadLine("is a preference row, from which this version cannot learn yet")
    if "completion" in value:
        raise BadLine("has a completion without a prompt")
    raise BadLine("has none of the keys 'messages', 'prompt' (with 'completion') and 'text'")


def _chat_row(line: int, value: Mapping[str, Any]) -> ChatRow:
    given = _filled_list(value["messages"], "messages")
    messages, learned = [], []
    for index, message in enumerate(given):
        where = f"messages[{index}]"
        messages.append(_message(message, where))
        is_answer = messages[-1]["role"] == "assistant"
        learned.append(is_answer and _weight(message, where))
    _check_turns(messages, learned)
    tools = None
    if "tools" in value:
        tools = _filled_list(value["tools"], "tools")
        for index, tool in enumerate(tools):
            _check_tool(tool, f"tools[{index}]")
    return ChatRow(line, tuple(messages), tuple(learned), None if tools is None else tuple(tools))


def _prompt_row(line: int, value: Mapping[str, Any]) -> ChatRow:
    prompt = _filled_text(value["prompt"], "prompt")
    if "completion" not in value:
        raise BadLine("has a prompt without a completion")
    completion = _filled_text(value["completion"], "completion")
    messages = (
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    )
    return ChatRow(line, messages, (False, True))


def _text_row(line: int, value: Mapping[str, Any]) -> TextRow:
    return TextRow(line, _filled_text(value["text"], "text"))


_PARSERS: Mapping[str, Callable[[int, Mapping[str, Any]], Row]] = {
    "chat": _chat_row,
    "prompt": _prompt_row,
    "text": _text_row,
}


def _check_turns(messages: Sequence[Mapping[str, Any]], learned: Sequence[bool]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise BadLine("has no assistant message, so there is nothing to learn")
    if not any(learned):
        raise BadLine("has weight 0 in every assistant message, so there is nothing to learn")
    if roles[-1] != "assistant":
        raise BadLine(f"ends with a {roles[-1]} message; the last message must be the assistant's")
    if learned[0]:
        raise BadLine(
            "begins with an assistant message, which answers nothing: give it weight 0, or begin "
            "with a user message"
        )


def _message(message: Any, where: str) -> dict[str, Any]:
    """The message as chat templates know it; raises BadLine where it is wrong."""
    _check_object(message, where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _MESSAGE_KEYS:
        raise BadLine(f"{where}.role must be one of {', '.join(_MESSAGE_KEYS)}")
    if unknown := sorted(message.keys() - _MESSAGE_KEYS[role]):
        raise BadLine(f"{where} has the key {unknown[0][:64]!a}, unknown in a {role} message")
    calls = message.get("tool_calls")
    content = message.get("content")
    # As OpenAI writes a message that only calls tools.
    text = "" if content is None and calls is not None else _content(content, f"{where}.content")
    if role == "assistant" and not text and calls is None:
        raise BadLine(f"{where}.content is empty; an assistant message says something")
    made: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": text}
    for key in ("name", "tool_call_id"):
        if key in message:
            made[key] = _filled_text(message[key], f"{where}.{key}")
    if "tool_calls" in message:
        calls = _filled_list(calls, f"{where}.tool_calls")
        made["tool_calls"] = [
            _tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)
        ]
    return made


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise BadLine(f"{where} must be a text or a list of text parts")
    texts = []
    for index, part in enumerate(content):
        is_text = isinstance(part, dict) and part.keys() == {"type", "text"}
        if not is_text or part["type"] != "text" or not isinstance(part["text"], str):
            raise BadLine(f'{where}[{index}] must be {{"type": "text", "text": "…"}}')
        texts.append(part["text"])
    return "".join(texts)


def _weight(message: Mapping[str, Any], where: str) -> bool:
    weight = message.get("weight", 1)
    if type(weight) is not int or weight not in (0, 1):
        raise BadLine(f"{where}.weight must be 0 or 1")
    return weight == 1


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    """A call with its arguments as an object, which is what chat templates write out."""
    _check_object(call, where)
    if call.get("type", "function") != "function" or call.keys() - {"id", "type", "function"}:
        raise BadLine(f"{where} must have type 'function', the function, and at most an id")
    function = call.get("function")
    _check_object(function, f"{where}.function")
    if function.keys() != {"name", "arguments"}:
        raise BadLine(f"{where}.function must have name and arguments")
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = parse_object(arguments.encode())
        except BadLine as error:
            raise BadLine(f"{where}.function.arguments: the text {error}") from None
    _check_object(arguments, f"{where}.function.arguments")
    name = _filled_text(function["name"], f"{where}.function.name")
    made: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": _filled_text(call["id"], f"{where}.id"), **made} if "id" in call else made


def _check_tool(tool: Any, where: str) -> None:
    _check_object(tool, where)
    if tool.keys() != {"type", "function"} or tool["type"] != "function":
        raise BadLine(f"{where} must have type 'function' and the function")
    _check_object(tool["function"], f"{where}.function")
    known = {"name", "description", "parameters", "strict"}
    if unknown := sorted(tool["function"].keys() - known):
        raise BadLine(f"{where}.function has the unknown key {unknown[0][:64]!a}")
    _filled_text(tool["function"].get("name"), f"{where}.function.name")


def _check_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise BadLine(f"{where} must be an object")


def _filled_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadLine(f"{where} must be a list with at least one entry")
    return value


def _filled_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadLine(f"{where} must be a text that is not empty")
    return value
