"""Grammars, in llguidance's dialect of Lark, that make a model's calls of tools what they must be.

Every format is written as the reader of ``server.core.call_style`` reads it. Text before a call is
free; arguments follow the tool's schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from server.core.call_style import ARGUMENTS, CallStyle
from server.core.conversation import Tool

_TEXT = "/(.|\\n)*/"
_NO_BRACE = "/[^{\\s](.|\\n)*/"


@dataclass(frozen=True, slots=True)
class Speaking:
    """What surrounds the calls of an answer.

    ``think`` are the markers of reasoning, empty for none, which the prompt has opened where
    ``thinking``. ``special`` are the markers that are special tokens, with their ids: no text
    spells them. ``answer`` is the grammar of an answer without calls, None where it is free.
    """

    think: tuple[str, str] | None = None
    thinking: bool = False
    special: Mapping[str, int] = field(default_factory=dict)
    answer: str | None = None


def call_grammar(
    style: CallStyle,
    tools: Sequence[Tool],
    speaking: Speaking,
    *,
    required: bool,
    most_calls: int | None,
) -> str:
    """The grammar of a whole answer that may, or with ``required`` must, call some of ``tools``.

    Without ``required`` only the arguments of strict tools follow their schema, as the reference
    has it; every call that is begun is finished. Models of the ``bare`` style make one call. Before
    a marker may be a line break: many templates write one, and so their models do.
    """
    one = most_calls == 1 or style.kind == "bare"
    rules = [*_call(style, speaking), *_tools(style, tools, all_strict=required)]
    marked = _marked(style, speaking, one=one)
    several = not one and style.kind in ("object", "header")
    calls = f"{marked} (/\\n?/ {marked})*" if several else marked
    if style.kind != "bare":
        calls = f"/\\n?/ {calls}"
    if required:
        rules.append(f"calls: {calls}")
    elif speaking.answer is not None:
        rules += [f"calls: {calls} | answer", f"answer: {speaking.answer}"]
    else:
        rules += _free(style, speaking, marked, one=one)
    return _whole("calls", speaking, rules)


def answer_grammar(speaking: Speaking) -> str:
    """The grammar of an answer after its reasoning, where no tools are offered."""
    return _whole("answer", speaking, [f"answer: {speaking.answer}"])


def _whole(start: str, speaking: Speaking, rules: Sequence[str]) -> str:
    thought = list(_thought(speaking))
    return "\n".join([f"start: {'thought ' if thought else ''}{start}", *thought, *rules]) + "\n"


def _marked(style: CallStyle, speaking: Speaking, *, one: bool) -> str:
    """One call, or list of calls, with its markers."""
    if style.kind == "bare":
        return "call"
    start = _marker(style.start, speaking)
    if style.kind == "list":
        return f'{start} "[" call "]"' if one else f'{start} "[" call (", " call)* "]"'
    if style.kind == "header":
        return f"{start} call"
    return f"{start} {_text(chr(10))} call {_text(chr(10))} {_marker(style.end, speaking)}"


def _call(style: CallStyle, speaking: Speaking) -> Iterator[str]:
    """A call from its name to the end of its arguments; short, for there may be many tools.

    JSON is cut as llguidance cuts that of a schema, so that an answer in JSON can be told from a
    call as it comes.
    """
    if style.kind == "header":
        yield "call: tool"
        yield f"mid: {_marker(ARGUMENTS, speaking)}"
        return
    key = "parameters" if style.kind == "bare" else "arguments"
    colon, quoted = _text(": "), _text(json.dumps("name"))
    yield f'call: "{{" {quoted} {colon} tool "}}"'
    yield f'mid: ", " {_text(json.dumps(key))} {colon}'


def _tools(style: CallStyle, tools: Sequence[Tool], *, all_strict: bool) -> Iterator[str]:
    write = str if style.kind == "header" else json.dumps
    yield "tool: " + "|".join(f"{_text(write(tool.name))} mid a{i}" for i, tool in enumerate(tools))
    for number, tool in enumerate(tools):
        schema = tool.parameters if all_strict or tool.strict else {}
        yield f"a{number}: %json {json.dumps({'type': 'object', **schema})}"


def _free(style: CallStyle, speaking: Speaking, marked: str, *, one: bool) -> Iterator[str]:
    """Text that turns into calls at the marker; in ``bare`` style at an opening brace."""
    if style.kind == "bare":
        yield "calls: call | NO_BRACE?"
        yield f"NO_BRACE: {_NO_BRACE}"
    else:
        rest = marked.removeprefix(_marker(style.start, speaking))
        yield f"calls: {f'TEXT | marker{rest}' if one else f'(marker{rest})* TEXT'}"
        yield from _lazily("marker", "TEXT", style.start, speaking)
        yield from _plain_text(speaking)


def _thought(speaking: Speaking) -> Iterator[str]:
    if speaking.think is None:
        return
    start, end = speaking.think
    if speaking.thinking:
        yield "thought: thought_end SPACE"
    else:
        yield f"thought: ({_marker(start, speaking)} thought_end SPACE)?"
    yield "SPACE: /\\s*/"
    yield from _lazily("thought_end", _TEXT, end, speaking)


def _plain_text(speaking: Speaking) -> Iterator[str]:
    """Text that does not begin with reasoning, where the model may begin with some."""
    if speaking.think is None or speaking.thinking or speaking.think[0] in speaking.special:
        yield f"TEXT: {_TEXT}"
    else:
        yield f"TEXT: {_TEXT} & ~THINKS"
        yield f"THINKS: {_text(speaking.think[0])} {_TEXT}"


def _lazily(rule: str, text: str, marker: str, speaking: Speaking) -> Iterator[str]:
    """``text`` up to the first ``marker`` and with it."""
    if marker in speaking.special:
        yield f"{rule}: {text} {_marker(marker, speaking)}"
    else:
        yield f"{rule}[lazy]: {text} {_text(marker)}"


def _marker(marker: str, speaking: Speaking) -> str:
    token = speaking.special.get(marker)
    return _text(marker) if token is None else f"<[{token}]>"


def _text(text: str) -> str:
    return json.dumps(text)
