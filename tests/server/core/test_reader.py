"""Words, reasoning and calls of tools, told apart in text that arrives in pieces."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.call_style import CallStyle
from server.core.reader import Reader, ReadingRules
from server.core.spoken import (
    CallArguments,
    CallBegun,
    CallEnded,
    Said,
    Spoken,
    SpokenCall,
    Thought,
    merged,
    speech,
)

THINK = ("<think>", "</think>")
TOOLS = frozenset({"f", "g"})


def lines(text: str) -> list[tuple[str, str]]:
    """``name:JSON`` lines, as a model might write them."""
    if not text.strip():
        raise ValueError("no call")
    pairs = (line.partition(":") for line in text.strip().splitlines())
    return [(name, arguments) for name, _, arguments in pairs]


OBJECT = CallStyle("object", "<tool_call>", "</tool_call>")
LIST = CallStyle("list", "[TOOL_CALLS]")
HEADER = CallStyle("header", "[TOOL_CALLS]")
BARE = CallStyle("bare", "<|python_tag|>")
TEXT = CallStyle("text", "<call>", "</call>", lines)
STYLES = [OBJECT, LIST, HEADER, BARE, TEXT]


def rules(style: CallStyle | None = OBJECT, **changes: Any) -> ReadingRules:
    """Two tools, and reasoning."""
    return ReadingRules(**{"think": THINK, "calls": style, "tools": TOOLS, **changes})


def read(text: str, these: ReadingRules) -> tuple[Spoken, ...]:
    """All that ``text`` says."""
    return in_pieces([text], these)


def in_pieces(pieces: list[str], these: ReadingRules) -> tuple[Spoken, ...]:
    """The same for a text that arrives in ``pieces``."""
    reader = Reader(these)
    events = [event for piece in pieces for event in reader.push(piece)]
    return merged([*events, *reader.finish()])


def call(index: int, name: str, arguments: str) -> list[Spoken]:
    """A whole call."""
    return [CallBegun(index, name), CallArguments(index, arguments), CallEnded(index)]


A, B = '{"a": 1}', '{"b": [{}, "}"]}'


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (OBJECT, f'<tool_call>\n{{"name": "f", "arguments": {A}}}\n</tool_call>'),
        (OBJECT, f'<tool_call>{{"name":"f","arguments":{A}}}</tool_call>'),
        (OBJECT, f'<tool_call>{{"arguments": {A}, "name": "f"}}</tool_call>'),
        (OBJECT, f'<tool_call>{{"id": 7, "name": "f", "parameters": {A}}}</tool_call>'),
        (OBJECT, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>'),
        (OBJECT, f'<tool_call>[{{"name": "f", "arguments": {A}}}]</tool_call>'),
        (OBJECT, f'<tool_call>{{"name": "f", "arguments": {A}</tool_call>'),
        (OBJECT, f'<tool_call>{{"name": "f", "arguments": {A}}}}}]</tool_call>'),
        (OBJECT, f'<tool_call>{{"name": "f", "arguments": {A}}}'),
        (LIST, f'[TOOL_CALLS][{{"name": "f", "arguments": {A}}}]'),
        (LIST, f'[TOOL_CALLS] [{{"name": "f", "arguments": {A}, "id": "abcdefghi"}}]'),
        (HEADER, f"[TOOL_CALLS]f[ARGS]{A}"),
        (HEADER, f"[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{A}"),
        (BARE, f'{{"name": "f", "parameters": {A}}}'),
        (BARE, f'\n{{"name": "f", "parameters": {A}}}'),
        (BARE, f'<|python_tag|>{{"name": "f", "parameters": {A}}}'),
        (TEXT, f"<call>\nf:{A}\n</call>"),
        (TEXT, f"<call>f:{A}"),
    ],
)
def test_a_call_is_read_in_every_format(style: CallStyle, text: str) -> None:
    """As models write them, with the slips that small models make."""
    assert list(read(text, rules(style))) == call(0, "f", A)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (
            OBJECT,
            (
                '<tool_call>{"name":"f","arguments":%s}</tool_call> '
                '<tool_call>{"name":"g","arguments":%s}</tool_call>'
            ),
        ),
        (OBJECT, '<tool_call>{"name":"f","arguments":%s}<tool_call>{"name":"g","arguments":%s}'),
        (LIST, '[TOOL_CALLS][{"name":"f","arguments":%s}, {"name":"g","arguments":%s}]'),
        (HEADER, "[TOOL_CALLS]f[ARGS]%s[TOOL_CALLS]g[ARGS]%s"),
        (BARE, '{"name":"f","parameters":%s}; {"name":"g","parameters":%s}'),
        (TEXT, "<call>f:%s\ng:%s</call>"),
    ],
)
def test_several_calls_are_counted(style: CallStyle, text: str) -> None:
    """In one block or in several; nothing of what separates them is said."""
    assert list(read(text % (A, B), rules(style))) == call(0, "f", A) + call(1, "g", B)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (OBJECT, "<tool_call>no JSON</tool_call>"),
        (OBJECT, '<tool_call>{"name": "h", "arguments": {}}</tool_call>'),
        (OBJECT, '<tool_call>{"name": "f", "arguments": 7}</tool_call>'),
        (OBJECT, '<tool_call>{"name": "f", "argu'),
        (OBJECT, '<tool_call>{"name" 7}</tool_call>'),
        (OBJECT, "<tool_call>{}</tool_call>"),
        (OBJECT, '<tool_call>{"name": "f", "arguments": "no"}</tool_call>'),
        (OBJECT, '<tool_call>{"\\x": 1}</tool_call>'),
        (OBJECT, '<tool_call>{"name": 7}</tool_call>'),
        (OBJECT, "<tool_call>[7]</tool_call>"),
        (OBJECT, "a < b and <tool_cal"),
        (LIST, "[TOOL_CALLS] none"),
        (HEADER, "[TOOL_CALLS]h[ARGS]{}"),
        (HEADER, "[TOOL_CALLS]f[ARG"),
        (HEADER, "[TOOL_CALLS]f[ARGS]7"),
        (HEADER, "[TOOL_CALLS]f[CALL_ID]a[b][ARGS]{}"),
        (HEADER, "[TOOL_CALLS]" + "f" * 300 + "[ARGS]{}"),
        (BARE, "<|python_tag|>print(1)"),
        (BARE, '{"name": "Bob", "parameters": {}}'),
        (BARE, '{"name": 3}'),
        (TEXT, "<call></call> x"),
        (TEXT, "<call>h:{}</call>"),
    ],
)
def test_what_is_no_call_is_said_as_it_stands(style: CallStyle, text: str) -> None:
    """Nothing that a model says is lost, and no client is asked to run what it has not offered."""
    assert read(text, rules(style)) == (Said(text),)


@pytest.mark.parametrize(
    ("style", "text", "rest"),
    [
        (OBJECT, '<tool_call>{"name": "f", "id": 77}</tool_', ""),
        (OBJECT, '<tool_call>{"id": [7], "name": "f"}\n', ""),
        (OBJECT, '<tool_call>{"name": "f", "arguments": {}} and so on', "and so on"),
        (OBJECT, '<tool_call>{"name": "f", "arguments": {}, 7}</tool_call>', "7}</tool_call>"),
        (LIST, '[TOOL_CALLS][{"name": "f"} x', "x"),
        (LIST, '[TOOL_CALLS][{"name": "f"}, {"name"', '{"name"'),
        (BARE, '{"name": "f"} x', "x"),
        (BARE, '{"name": "f"}; x', "x"),
    ],
)
def test_what_follows_a_call_and_is_none_is_said(style: CallStyle, text: str, rest: str) -> None:
    """A call that has been reported stands, whatever comes after it."""
    heard = speech(read(text, rules(style)))
    assert (heard.calls, heard.text.lstrip(" ;,")) == ((SpokenCall("f", "{}"),), rest)


def test_a_style_that_needs_a_parser_says_so() -> None:
    """Half a format reads nothing."""
    with pytest.raises(ValueError, match="need a parser"):
        read("<call>", rules(CallStyle("text", "<call>", "</call>")))


def test_of_calls_that_come_together_only_those_that_are_wanted_are_taken() -> None:
    """A parser gives all that are in a text."""
    assert list(read("<call>f:{}\ng:{}</call>", rules(TEXT, most_calls=1))) == call(0, "f", "{}")


def test_words_around_calls_are_kept_without_the_space_between() -> None:
    """White space that only separates is no content."""
    text = f'Let me see.\n<tool_call>{{"name": "f", "arguments": {A}}}</tool_call>\n'
    assert list(read(text, rules())) == [Said("Let me see."), *call(0, "f", A)]
    text += "Done.\n"
    assert list(read(text, rules())) == [Said("Let me see."), *call(0, "f", A), Said("\n\nDone.\n")]


def test_reasoning_is_never_said() -> None:
    """Whether the model opens it or the prompt has."""
    expected = (Thought("Hm. <tool_call>"), Said("Yes."))
    assert read("<think>\nHm. <tool_call>\n</think>\n\nYes.", rules()) == expected
    opened = rules(thinking=True)
    assert read("\nHm. <tool_call>\n</think>\n\nYes.", opened) == expected
    assert read("<think>\nHm. <tool_call>\n</think>\n\nYes.", opened) == expected
    assert read("Hm", opened) == (Thought("Hm"),)


def test_a_text_about_the_marker_is_text() -> None:
    """Reasoning comes before the answer; later the marker is a word like another."""
    assert read("Write <think> first.", rules()) == (Said("Write <think> first."),)


def test_arguments_are_passed_on_as_they_come() -> None:
    """A client shows them while the model still writes."""
    reader = Reader(rules())
    assert reader.push('<tool_call>{"name": "f", "arguments": ') == ()
    assert reader.push('{"a') == (CallBegun(0, "f"), CallArguments(0, '{"a'))
    assert reader.push('": "</tool') == (CallArguments(0, '": "</tool'),)
    assert reader.push('_call>"}') == (CallArguments(0, '_call>"}'), CallEnded(0))
    assert reader.finish() == ()


def test_an_unfinished_call_has_what_was_written_of_it() -> None:
    """As where max_tokens cuts it off: the client sees the arguments and ``length``."""
    events = read('<tool_call>{"name": "f", "arguments": {"a": [1', rules())
    assert events == (CallBegun(0, "f"), CallArguments(0, '{"a": [1'))
    assert speech(events).calls == (SpokenCall("f", '{"a": [1'),)


def test_the_text_is_over_with_the_last_call_that_is_wanted() -> None:
    """At most one call is exactly one, whatever the model would write then."""
    reader = Reader(rules(most_calls=1))
    one = f'<tool_call>{{"name": "f", "arguments": {A}}}</tool_call>'
    assert list(reader.push(one + one + "x")) == call(0, "f", A)
    assert reader.done
    assert reader.finish() == ()


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """A client parses what it is given."""
    assert list(read('<tool_call>{"name": "f"}</tool_call>', rules())) == call(0, "f", "{}")


def test_positions_of_reasoning_are_known() -> None:
    """Usage counts the tokens that begin there, with those of the markers."""
    reader = Reader(rules())
    reader.push("<think>a</think>b")
    reader.finish()
    assert [reader.is_thought(at) for at in (0, 7, 8, 15, 16)] == [True, True, True, True, False]


FRAGMENTS = st.sampled_from(
    [
        "<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<call>",
        "</call>", "<|python_tag|>", '{"name": "f", "arguments": {"x": "</tool_call>"}}', '"', "\\",
        '{"name": "g", "parameters": {}}', '[{"name": "f"}]', "f:{}", "f[ARGS]{}", "{", "}", "[",
        "]", ",", ";", ":", " ", "\n", "a", "é", "<", "</", '"name"', '"arguments"', '"f"', "7",
    ]
)  # fmt: skip


@given(
    st.lists(FRAGMENTS, max_size=14).map("".join),
    st.sampled_from(STYLES),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.data(),
)
def test_any_cut_of_a_text_reads_the_same(
    text: str, style: CallStyle, thinking: bool, most: int | None, data: st.DataObject
) -> None:
    """Tokens border nowhere that means anything."""
    these = rules(style, thinking=thinking, most_calls=most)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    borders = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(borders)]
    assert in_pieces(pieces, these) == read(text, these)


@given(st.lists(FRAGMENTS, max_size=14).map("".join), st.sampled_from(STYLES))
def test_events_come_in_order(text: str, style: CallStyle) -> None:
    """A call begins once, is argued, ends at most once, and is complete before the next begins."""
    open_call, begun = None, 0
    for event in read(text, rules(style)):
        match event:
            case CallBegun(index, name):
                assert (index, name in TOOLS) == (begun, True)
                open_call, begun = index, begun + 1
            case CallArguments(index, part):
                assert (index, bool(part)) == (open_call, True)
            case CallEnded(index):
                assert index == open_call
                open_call = None
            case Said(part) | Thought(part):
                assert part


@given(st.text())
def test_text_without_tools_and_reasoning_is_untouched(text: str) -> None:
    """Every character, white space too."""
    assert speech(in_pieces(list(text), ReadingRules())).text == text
    assert speech(in_pieces(list(text), rules())).text == text or "<" in text
