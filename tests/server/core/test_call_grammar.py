"""Grammars of answers with calls: what they let through is a call, and nothing else is."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from server.core.call_grammar import Speaking, answer_grammar, call_grammar
from server.core.call_style import CallStyle
from server.core.conversation import Tool
from server.core.messages import Constraint
from server.core.reader import Reader, ReadingRules
from server.core.spoken import Speech, speech
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars, Matcher
from tests.fake_tokenizer import END, VOCABULARY, FakeTokenizer

STYLES = {
    "object": CallStyle("object", "<tool_call>", "</tool_call>"),
    "list": CallStyle("list", "[TOOL_CALLS]"),
    "header": CallStyle("header", "[TOOL_CALLS]"),
    "bare": CallStyle("bare", "<|python_tag|>"),
}
WRITTEN = {
    "object": '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>',
    "list": '[TOOL_CALLS][{"name": "f", "arguments": %s}]',
    "header": "[TOOL_CALLS]f[ARGS]%s",
    "bare": '{"name": "f", "parameters": %s}',
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 3},
        "days": {"enum": [1, 2]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
STRICT = Tool({"name": "f", "parameters": SCHEMA}, strict=True)
LOOSE = Tool({"name": "g_2", "parameters": {"properties": {"n": {"type": "null"}}}})
FITS, MISFITS = '{"city": "Rom", "days": 2}', '{"town": "Rom"}'
CLOSING = frozenset([*b'"}]\n', END])
GRAMMARS = Grammars(lambda: grammar_tokens(FakeTokenizer()))


def matcher(style: str, speaking: Speaking | None = None, **wanted: Any) -> Matcher:
    """At the beginning of an answer."""
    wanted = {"required": True, "most_calls": None, **wanted}
    source = call_grammar(STYLES[style], (STRICT, LOOSE), speaking or Speaking(), **wanted)
    return GRAMMARS.grammar(Constraint("lark", source, "tools")).matcher()


def taken(at: Matcher, text: str) -> str:
    """As much of ``text`` as is let through; ``.`` behind it where the answer may end there."""
    tokens = list(text.encode())
    count = at.native.try_consume_tokens(tokens)
    return bytes(tokens[:count]).decode() + ("." if at.native.is_accepting() else "")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("most_calls", [None, 1])
def test_a_call_that_fits_is_let_through(style: str, most_calls: int | None) -> None:
    """As the family of models writes it."""
    text = WRITTEN[style] % FITS
    assert taken(matcher(style, most_calls=most_calls), text) == text + "."


@pytest.mark.parametrize("style", ["object", "list", "header"])
@pytest.mark.parametrize("answer", [None, "/x/"])
@pytest.mark.parametrize("most_calls", [None, 1])
def test_a_line_break_may_come_before_the_marker(
    style: str, answer: str | None, most_calls: int | None
) -> None:
    """One, as templates write it that put the calls on a line of their own; no more."""
    text = f"\n{WRITTEN[style] % FITS}"
    options: dict[str, Any] = {"required": answer is None, "most_calls": most_calls}
    speaking = Speaking(answer=answer)
    assert taken(matcher(style, speaking, **options), text) == text + "."
    assert taken(matcher(style, speaking, **options), f"\n{text}") == "\n"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("required", [True, False])
def test_arguments_of_a_strict_tool_fit_its_schema(style: str, required: bool) -> None:
    """From the first key that the schema does not have."""
    text = WRITTEN[style] % MISFITS
    assert taken(matcher(style, required=required), text) == text[: text.index("town")]


@pytest.mark.parametrize("style", STYLES)
def test_arguments_of_another_tool_are_any_object_unless_a_call_is_required(style: str) -> None:
    """The reference promises no more of tools that are not strict."""
    text = WRITTEN[style].replace('"f"', '"g_2"').replace("]f[", "]g_2[") % '{"n": 7}'
    assert taken(matcher(style, required=False), text) == text + "."
    assert taken(matcher(style), text) == text[: text.index("7")]


@pytest.mark.parametrize("style", STYLES)
def test_a_required_call_comes_first(style: str) -> None:
    """Nothing is said in its place."""
    assert taken(matcher(style), "Hello") == ""


@pytest.mark.parametrize("style", STYLES)
def test_text_is_free_where_no_call_is_required(style: str) -> None:
    """Up to the marker; in the bare style an answer that begins with a brace is a call."""
    hello = "Hello {you}."
    assert taken(matcher(style, required=False), hello) == hello + "."
    if style != "bare":
        text = f"Hello {WRITTEN[style]}" % MISFITS
        assert taken(matcher(style, required=False), text) == text[: text.index("town")]


@pytest.mark.parametrize("required", [True, False])
def test_a_second_call_is_let_through_unless_one_is_wanted(required: bool) -> None:
    """``parallel_tool_calls: false`` means at most one."""
    one = WRITTEN["object"] % FITS
    two = f"{one}\n{one}"
    assert taken(matcher("object", required=required), two) == two + "."
    assert taken(matcher("object", required=required, most_calls=1), two) == one + "."
    listed = f'[TOOL_CALLS][{{"name": "f", "arguments": {FITS}}}, {{"name": "f", "arguments": '
    assert taken(matcher("list", required=required), listed) == listed
    assert (
        taken(matcher("list", required=required, most_calls=1), listed)
        == listed.split(",  ")[0].partition("}, {")[0] + "}"
    )


@pytest.mark.parametrize("required", [True, False])
def test_reasoning_comes_before_a_call(required: bool) -> None:
    """Whether the prompt has opened it or the model does, and whatever it holds."""
    text = WRITTEN["object"] % FITS
    think = ("<think>", "</think>")
    thought = "Hm, <tool_call>{x} </think>\n\n"
    opened = matcher("object", Speaking(think, thinking=True), required=required)
    assert taken(opened, thought + text) == thought + text + "."
    opens = matcher("object", Speaking(think), required=required)
    assert taken(opens, f"<think>{thought}{text}") == f"<think>{thought}{text}."
    assert taken(matcher("object", Speaking(think), required=required), text) == text + "."


@pytest.mark.parametrize("style", ["object", "bare"])
def test_an_answer_in_a_form_is_an_alternative_to_calls(style: str) -> None:
    """``response_format`` is about what is said, not about what is called."""
    speaking = Speaking(answer="%json " + json.dumps(SCHEMA))
    call, answer = WRITTEN[style] % FITS, FITS
    assert taken(matcher(style, speaking, required=False), call) == call + "."
    assert taken(matcher(style, speaking, required=False), answer) == answer + "."
    assert taken(matcher(style, speaking, required=False), "Hello") == ""
    assert taken(matcher(style, speaking), answer) == ("{" + '"' if style == "bare" else "")


def test_reasoning_comes_before_an_answer_in_a_form() -> None:
    """Else a model that reasons could not be asked for JSON."""
    source = answer_grammar(
        Speaking(("<think>", "</think>"), True, answer='%json {"type": "null"}')
    )
    at = GRAMMARS.grammar(Constraint("lark", source)).matcher()
    assert taken(at, "so</think>\nnull") == "so</think>\nnull."


def test_markers_that_are_special_tokens_are_those_tokens() -> None:
    """No text spells them; the marker of the end as well as that of the beginning."""
    special = {"<tool_call>": 1, "</tool_call>": 2}
    body = list(b'\n{"name": "f", "arguments": ' + FITS.encode() + b"}\n")
    for required, before in ((True, b""), (False, b"Hello ")):
        at = matcher("object", Speaking(special=special), required=required)
        tokens = [*before, 1, *body, 2]
        assert at.native.try_consume_tokens(tokens) == len(tokens)
        assert at.native.is_accepting()
        spelled = matcher("object", Speaking(special=special)).native
        assert spelled.try_consume_tokens(list(b"<tool_call>")) == 0


def test_many_tools_stay_below_the_limit_of_a_grammar() -> None:
    """As many as a request may have."""
    tools = [Tool({"name": f"{'long_name' * 4}_{number}"}) for number in range(128)]
    source = call_grammar(STYLES["object"], tools, Speaking(), required=True, most_calls=None)
    GRAMMARS.grammar(Constraint("lark", source)).matcher()


def random_answer(at: Matcher, rng: random.Random) -> str | None:
    """What a model without any sense says; None where it does not come to an end."""
    said = bytearray()
    for _ in range(400):
        mask = at.native.compute_bitmask()
        allowed = [token for token in range(VOCABULARY) if mask[token // 8] >> token % 8 & 1]
        closing = [token for token in allowed if token in CLOSING]
        token = rng.choice(closing if closing and rng.random() < 0.5 else allowed)
        at.take(token)
        if token == END:
            return said.decode("utf-8", "replace")
        said.append(token)
        if at.is_whole:
            return said.decode("utf-8", "replace")
    return None


def read(style: str, text: str) -> Speech:
    """What ``text`` says."""
    reader = Reader(ReadingRules(calls=STYLES[style], tools=frozenset({"f", "g_2"})))
    return speech([*reader.push(text), *reader.finish()])


@pytest.mark.parametrize("style", STYLES)
def test_whatever_is_let_through_is_read_as_calls_that_fit(style: str) -> None:
    """The grammar and the reader agree: always valid, also where the model has no sense."""
    ended = 0
    for seed in range(12):
        text = random_answer(matcher(style), random.Random(seed))
        if text is None:
            continue
        ended += 1
        heard = read(style, text)
        assert heard.text == ""
        assert heard.calls
        for call in heard.calls:
            schema = SCHEMA if call.name == "f" else LOOSE.parameters
            jsonschema.validate(json.loads(call.arguments), schema)
    assert ended > 3
