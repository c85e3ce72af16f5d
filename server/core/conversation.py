"""A conversation with tools, whatever API it came from, as the chat template takes it.

Every API that speaks of messages and tools makes a ``Conversation`` of its request;
``server.api.conversing`` makes a prompt and the rules for reading the answer of it. A model whose
template describes tools gets them through the template. For any other model the tools, calls and
results are written in a format of our own, that of Hermes: see ``docs/tools.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
"""Markers of our own format."""

_NO_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_RESULT_START, _RESULT_END = "<tool_response>", "</tool_response>"
_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called. ``function`` is OpenAI's object: name, description, parameters."""

    function: Mapping[str, Any]
    strict: bool = False

    @property
    def name(self) -> str:
        """What calls name."""
        return str(self.function["name"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments; without one there are none, as the reference says."""
        return self.function.get("parameters") or _NO_PARAMETERS

    def for_template(self) -> dict[str, Any]:
        """As chat templates and mlx-lm's parsers know it."""
        return {"type": "function", "function": dict(self.function)}

    def for_parser(self) -> dict[str, Any]:
        """The same with a schema in any case."""
        return {"type": "function", "function": {**self.function, "parameters": self.parameters}}


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that an earlier answer made. ``arguments`` is the JSON that the model wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. ``answers`` is the id of the call whose result a tool's message is."""

    role: Role
    text: str
    name: str | None = None
    reasoning: str | None = None
    calls: tuple[PastCall, ...] = ()
    answers: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the model is shown, and what it may answer with.

    ``tools`` are those that may be called now: none of them with ``tool_choice: none``, and only
    the ones that the choice names where it names some. ``required`` asks for at least one call,
    ``most_calls`` limits them. ``ending`` says whether the assistant's turn is opened, its last
    message continued, or neither. ``variables`` go to the template by name.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    required: bool = False
    most_calls: int | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    ending: Literal["open", "continue", "closed"] = "open"


def template_messages(turns: Sequence[Turn], *, short_ids: bool) -> list[dict[str, Any]]:
    """``turns`` for a template that knows tools. Arguments become objects, as templates want them.

    With ``short_ids`` the ids of calls become nine letters and digits, as Mistral's templates
    demand.
    """
    shorten = _short_id if short_ids else str
    messages = []
    for turn in turns:
        message = _plain(turn)
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": shorten(call.id),
                    "type": "function",
                    "function": {"name": call.name, "arguments": _object_or_text(call.arguments)},
                }
                for call in turn.calls
            ]
        if turn.answers is not None:
            message["tool_call_id"] = shorten(turn.answers)
        messages.append(message)
    return messages


def own_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages for a template that knows no tools, with ours in the text.

    Results are the user's words, and join the user's message that follows them: many templates
    want user and assistant to take turns.
    """
    turns = list(conversation.turns)
    if conversation.tools:
        lead = turns.pop(0).text + "\n\n" if turns and turns[0].role == "system" else ""
        turns.insert(0, Turn("system", lead + _description(conversation)))
    return list(_joined(turns))


def _joined(turns: Sequence[Turn]) -> Iterator[dict[str, Any]]:
    results = ""
    for turn in turns:
        if turn.role == "tool":
            results += f"{_RESULT_START}\n{turn.text}\n{_RESULT_END}\n"
            continue
        message = _plain(turn)
        if results and turn.role == "user":
            message["content"] = results + turn.text
        elif results:
            yield {"role": "user", "content": results.rstrip()}
        results = ""
        calls = "\n".join(_own_call(call) for call in turn.calls)
        message["content"] += "\n" + calls if calls and turn.text else calls
        yield message
    if results:
        yield {"role": "user", "content": results.rstrip()}


def _own_call(call: PastCall) -> str:
    written = {"name": call.name, "arguments": _object_or_text(call.arguments)}
    return f"{CALL_START}\n{_json(written)}\n{CALL_END}"


def _description(conversation: Conversation) -> str:
    """Our own words; the markers and the object between them are Hermes' format."""
    tools = "\n".join(_json(tool.function) for tool in conversation.tools)
    wanted = "You may call tools." if not conversation.required else "Answer by calling a tool."
    number = " Call only one." if conversation.most_calls == 1 else ""
    return (
        f"{wanted}{number} These are there, with the JSON schemas of their arguments:\n"
        f"<tools>\n{tools}\n</tools>\n"
        "To call a tool, write its name and its arguments like this:\n"
        f'{CALL_START}\n{{"name": "the_tool", "arguments": {{"key": "value"}}}}\n{CALL_END}\n'
        f"Its result then comes in {_RESULT_START}{_RESULT_END}."
    )


def _plain(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.name is not None:
        message["name"] = turn.name
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning
    return message


def _object_or_text(arguments: str) -> Any:
    """Arguments that are no object, because they were cut off or are wrong, stay text."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _short_id(call_id: str) -> str:
    if _MISTRAL_ID.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(), digest_size=8).hexdigest()[:9]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
