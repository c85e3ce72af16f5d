"""How a model's chat template and its answers write tools and reasoning.

What the template reads is asked of its syntax tree. How calls are written is mlx-lm's knowledge
where it has a parser; we read three of the formats ourselves, as they come.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser

CallKind = Literal["object", "list", "header", "bare", "text"]

_KINDS: dict[str, CallKind] = {"json_tools": "object", "mistral": "list"}
"""mlx-lm's parsers whose formats are read as they come; the others need the whole call."""
_PYTHON_TAG = "<|python_tag|>"
_THINK = ("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a model's template takes and how its answers are marked.

    ``variables`` are the names that the template reads. ``call_kind`` is None where the template
    describes no tools, or describes them in a format that nobody here can read. ``object``: a JSON
    object, or a list of some, between the markers. ``list`` and ``header``: a JSON list, or
    ``name[ARGS]{…}``, after the marker (Mistral). ``bare``: the answer is a JSON object, with or
    without the marker (Llama 3). ``text``: what ``parse_calls`` reads between the markers. Markers
    of reasoning are empty where the model has none. ``special`` are the markers that are special
    tokens, with their ids.
    """

    variables: frozenset[str] = frozenset()
    call_kind: CallKind | None = None
    call_start: str = ""
    call_end: str = ""
    think_start: str = ""
    think_end: str = ""
    special: Mapping[str, int] = field(default_factory=dict)
    parser: Callable[[str, Any], Any] | None = None

    def parse_calls(
        self, text: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[str, str], ...]:
        """Names and arguments, as JSON objects, of the calls in what stands between the markers.

        ``tools`` are the request's, in OpenAI's form. Raises ValueError where ``text`` holds no
        call.
        """
        if self.parser is None:
            raise ValueError("this model's calls have no parser")
        try:
            parsed = self.parser(text, [dict(tool) for tool in tools])
            calls = parsed if isinstance(parsed, list) else [parsed]
            return tuple(_call(call) for call in calls)
        except Exception as error:  # the parsers raise whatever a text makes them meet
            raise ValueError(f"no call can be read: {error}") from error


def read_dialect(wrapper: Any) -> Dialect:
    """The dialect of the model whose tokenizer mlx-lm's ``wrapper`` holds."""
    sources = _sources(wrapper)
    variables = _variables(wrapper, sources)
    text = "\n".join(sources)
    think = (wrapper.think_start or "", wrapper.think_end or "")
    if not think[0] and _THINK[1] in text:
        think = _THINK
    kind, markers, parser = (
        _calls(wrapper, text) if "tools" in variables else (None, ("", ""), None)
    )
    marked = {*markers, *think, "[ARGS]"} - {""}
    special = {
        token.content: id_
        for id_, token in wrapper.added_tokens_decoder.items()
        if token.special and token.content in marked
    }
    return Dialect(variables, kind, *markers, *think, special, parser)


def _calls(
    wrapper: Any, template: str
) -> tuple[CallKind | None, tuple[str, str], Callable[[str, Any], Any] | None]:
    parser = wrapper.tool_parser
    if parser is not None:
        markers = (wrapper.tool_call_start, wrapper.tool_call_end)
        kind = _KINDS.get(parser.__module__.rpartition(".")[2], "text")
        if kind == "list" and "[ARGS]" in template:
            kind = "header"
        return kind, markers, parser if kind == "text" else None
    if "<tool_call>" in template:
        return "object", ("<tool_call>", "</tool_call>"), None
    if _PYTHON_TAG in template or ('"parameters"' in template and '"name"' in template):
        return "bare", (_PYTHON_TAG, ""), None
    return None, ("", ""), None


def _call(call: Mapping[str, Any]) -> tuple[str, str]:
    name, arguments = call["name"], call["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise TypeError("a call has a name and an object of arguments")
    return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def _sources(wrapper: Any) -> list[str]:
    """The texts of the template, which may have a form of its own for tools."""
    template = wrapper.chat_template
    if isinstance(template, Mapping):
        return [str(source) for source in template.values()]
    return [template] if isinstance(template, str) else []


def _variables(wrapper: Any, sources: Sequence[str]) -> frozenset[str]:
    if not sources:
        renderer = getattr(wrapper, "_chat_template", None)
        return frozenset(inspect.signature(renderer).parameters) if renderer else frozenset()
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation])
    found: set[str] = set()
    for source in sources:
        try:
            found |= jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateSyntaxError:
            continue  # encoding a conversation says so, with the template's fault
    return frozenset(found)


class _Generation(jinja2.ext.Extension):
    """The block by which training templates mark what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Its body, as if it stood there alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
