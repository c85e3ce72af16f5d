"""Grammars, in llguidance's dialect of Lark, that make a model's calls of tools what they must be.

Every format is written as the reader of ``server.core.call_style`` reads it. Text before a call is
free; arguments follow the tool's schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.core.call_style import CallStyle
from server.core.conversation import Tool

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
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
    has it; every call that is begun is finished. Models of the ``bare`` style make one call.
    """
    one = most_calls == 1 or style.kind == "bare"
    rules = list(_calls(style, tools, speaking, all_strict=required, one=one))
    if required:
        start = "calls"
        rules.append(f"calls: {_marked(style, speaking)}")
        if not one and style.kind in ("object", "header"):
            rules[-1] += f" (GAP {_marked(style, speaking)})*"
            rules.append("GAP: /\\n?/")
    else:
        start = "free"
        rules += _free(style, speaking, one=one)
    thought = list(_thought(speaking))
    return "\n".join([f"start: {'thought ' if thought else ''}{start}", *thought, *rules]) + "\n"


def thought_then(answer: str, speaking: Speaking) -> str:
    """The grammar of an answer without calls whose reasoning the prompt has opened."""
    rules = ["start: thought answer", f"answer: {answer}", *_thought(speaking)]
    return "\n".join(rules) + "\n"


def _marked(style: CallStyle, speaking: Speaking) -> str:
    """One call, or list of calls, with its markers."""
    if style.kind == "bare":
        return "call"
    end = f" {_text(chr(10))} {_marker(style.end, speaking)}" if style.end else ""
    gap = f" {_text(chr(10))}" if style.kind == "object" else ""
    return f"{_marker(style.start, speaking)}{gap} call{end}"


def _calls(
    style: CallStyle, tools: Sequence[Tool], speaking: Speaking, *, all_strict: bool, one: bool
) -> Iterator[str]:
    bodies = [f"call_{number}" for number in range(len(tools))]
    any_call = " | ".join(bodies)
    if style.kind == "list":
        more = "" if one else ' (", " each_call)*'
        yield f'call: "[" each_call{more} "]"'
        yield f"each_call: {any_call}"
    else:
        yield f"call: {any_call}"
    key = "parameters" if style.kind == "bare" else "arguments"
    for number, (body, tool) in enumerate(zip(bodies, tools, strict=True)):
        if style.kind == "header":
            # A special token where the tokenizer has one, as with the other markers.
            before, after = f"{_text(tool.name)} {_marker('[ARGS]', speaking)}", ""
        else:
            before = _text(f'{{"name": {json.dumps(tool.name)}, "{key}": ')
            after = f" {_text('}')}"
        yield f"{body}: {before} arguments_{number}{after}"
        schema = tool.parameters if all_strict or tool.strict else _ANY_OBJECT
        yield f"arguments_{number}: %json {json.dumps(schema)}"


def _free(style: CallStyle, speaking: Speaking, *, one: bool) -> Iterator[str]:
    """Text that turns into calls at the marker; in ``bare`` style at an opening brace."""
    answer = "answer" if speaking.answer is not None else "TEXT"
    if style.kind == "bare":
        yield f"free: call | {answer if speaking.answer is not None else '(NO_BRACE)?'}"
        yield f"NO_BRACE: {_NO_BRACE}"
    else:
        rest = _marked(style, speaking).removeprefix(_marker(style.start, speaking))
        if speaking.answer is not None:
            yield f"free: {_marked(style, speaking)} | answer"
        else:
            yield f"free: {'TEXT | marker' + rest if one else f'(marker{rest})* TEXT'}"
            yield from _lazily("marker", style.start, speaking)
    if speaking.answer is not None:
        yield f"answer: {speaking.answer}"
    elif style.kind != "bare":
        yield f"TEXT: {_TEXT}"


def _thought(speaking: Speaking) -> Iterator[str]:
    if speaking.think is None:
        return
    start, end = speaking.think
    if speaking.thinking:
        yield "thought: thought_end SPACE"
    else:
        yield f"thought: ({_marker(start, speaking)} thought_end SPACE)?"
    yield "SPACE: /\\s*/"
    yield from _lazily("thought_end", end, speaking)


def _lazily(rule: str, marker: str, speaking: Speaking) -> Iterator[str]:
    """Text up to the first ``marker`` and with it."""
    if marker in speaking.special:
        yield f"{rule}: {_TEXT} {_marker(marker, speaking)}"
    else:
        yield f"{rule}[lazy]: {_TEXT} {_text(marker)}"


def _marker(marker: str, speaking: Speaking) -> str:
    token = speaking.special.get(marker)
    return _text(marker) if token is None else f"<[{token}]>"


def _text(text: str) -> str:
    return json.dumps(text)
