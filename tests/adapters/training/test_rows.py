"""What a line of training data may be, and that all that is wrong with a set is told at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import DataError, LineFault
from adapters.training.rows import (
    MAX_FAULTS,
    SHOWN_FAULTS,
    ChatRow,
    Faults,
    TextRow,
    check_rows,
    read_rows,
)

USER = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Good day"}
CHAT = {"messages": [USER, ANSWER]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
GOOD = json.dumps(CHAT).encode()


def call(arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    """A tool call."""
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def line(value: Any) -> bytes:
    """A row as it stands in a file."""
    return json.dumps(value).encode()


def chat(*messages: Any, **more: Any) -> bytes:
    """A chat row."""
    return line({"messages": list(messages), **more})


def faults_of(*lines: bytes) -> tuple[LineFault, ...]:
    """What is wrong with a data set."""
    with pytest.raises(DataError) as caught:
        check_rows(lines)
    return caught.value.faults


def test_a_chat_row_learns_the_assistant_s_messages() -> None:
    """All of them but those of weight 0; no one else's."""
    system = {"role": "system", "content": "Be brief"}
    skipped = ANSWER | {"weight": 0}
    (row,) = check_rows([chat(system, USER, skipped, USER, ANSWER | {"weight": 1})])
    assert isinstance(row, ChatRow)
    assert row.learned == (False, False, False, False, True)
    assert row.messages == (system, USER, ANSWER, USER, ANSWER)
    assert (row.line, row.tools) == (1, None)


def test_a_prompt_row_is_a_chat_of_two() -> None:
    """As mlx-lm takes it."""
    (row,) = check_rows([line({"prompt": "Hello", "completion": "Good day"})])
    assert row == ChatRow(1, (USER, ANSWER), (False, True))


def test_a_text_row_is_its_text() -> None:
    """Without a template."""
    assert check_rows([line({"text": "a"}), line({"text": "b"})]) == [
        TextRow(1, "a"),
        TextRow(2, "b"),
    ]


def test_parts_are_joined_and_the_developer_is_the_system() -> None:
    """What a template sees is what it would see when serving."""
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    developer = {"role": "developer", "content": "Be brief"}
    (row,) = check_rows([chat(developer, USER | {"content": parts, "name": "Ida"}, ANSWER)])
    assert isinstance(row, ChatRow)
    assert row.messages[0] == {"role": "system", "content": "Be brief"}
    assert row.messages[1] == USER | {"name": "Ida"}


def test_tool_calls_have_their_arguments_as_objects() -> None:
    """OpenAI writes them as text, templates write out objects."""
    asked = {"role": "assistant", "content": None, "tool_calls": [call('{"a": 1}', id="c1")]}
    told = {"role": "tool", "content": "7", "tool_call_id": "c1"}
    (row,) = check_rows([chat(USER, asked, told, ANSWER, tools=[TOOL])])
    assert isinstance(row, ChatRow)
    assert row.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [call({"a": 1}, id="c1")],
    }
    assert row.messages[2] == told
    assert row.tools == (TOOL,)
    assert row.learned == (False, True, False, True)


WRONG_LINES: dict[bytes, str] = {
    b"{}": "has none of the keys 'messages', 'prompt' (with 'completion') and 'text'",
    b'{"input": {}, "preferred_completion": []}': "is a preference row",
    b'{"input": "a"}': "has none of the keys",
    line({"text": "a", "weight": 1}): "has the unknown key 'weight'; a text row has text",
    line({"text": "a", "messages": []}): "has the unknown key 'text'; a chat row has messages",
    line({"prompt": "a", "completion": "b", "x": 1}): "has the unknown key 'x'; a prompt row has",
    line({"text": ""}): "text must be a text that is not empty",
    line({"text": ["a"]}): "text must be a text",
    line({"prompt": "a"}): "has a prompt without a completion",
    line({"completion": "a"}): "has a completion without a prompt",
    line({"prompt": "", "completion": "a"}): "prompt must be a text that is not empty",
    line({"prompt": "a", "completion": None}): "completion must be a text",
    line({"messages": []}): "messages must be a list with at least one entry",
    line({"messages": "hello"}): "messages must be a list",
    chat(USER): "has no assistant message",
    chat(USER, ANSWER | {"weight": 0}): "has weight 0 in every assistant message",
    chat(USER, ANSWER, USER): "ends with a user message",
    chat(ANSWER, USER, ANSWER): "begins with an assistant message, which answers nothing",
    chat("hello"): "messages[0] must be an object",
    chat({"content": "a"}): "messages[0].role must be one of system, developer, user",
    chat({"role": ["user"], "content": "a"}): "messages[0].role must be one of",
    chat(USER, ANSWER | {"role": "bot"}): "messages[1].role must be one of",
    chat(USER | {"weight": 1}, ANSWER): "messages[0] has the key 'weight', unknown in a user",
    chat(USER, ANSWER | {"mood": 1}): "messages[1] has the key 'mood', unknown in a assistant",
    chat(USER, ANSWER | {"weight": 2}): "messages[1].weight must be 0 or 1",
    chat(USER, ANSWER | {"weight": True}): "messages[1].weight must be 0 or 1",
    chat(USER, ANSWER | {"weight": 1.0}): "messages[1].weight must be 0 or 1",
    chat(USER, ANSWER | {"weight": None}): "messages[1].weight must be 0 or 1",
    chat(USER, ANSWER | {"content": ""}): "messages[1].content is empty",
    chat(USER, ANSWER | {"content": None}): "messages[1].content must be a text or a list",
    chat(USER | {"content": 7}, ANSWER): "messages[0].content must be a text or a list",
    chat(USER | {"content": []}, ANSWER): "messages[0].content must be a text or a list",
    chat(USER | {"content": ["a"]}, ANSWER): "messages[0].content[0] must be",
    chat(USER | {"content": [{"type": "image_url", "text": "a"}]}, ANSWER): "content[0] must be",
    chat(USER | {"content": [{"type": "text", "text": 7}]}, ANSWER): "content[0] must be",
    chat(USER | {"name": ""}, ANSWER): "messages[0].name must be a text",
    chat(USER, ANSWER | {"tool_calls": []}): "messages[1].tool_calls must be a list with at least",
    chat(USER, ANSWER | {"tool_calls": None}): "messages[1].tool_calls must be a list",
    chat(USER, ANSWER | {"tool_calls": [7]}): "messages[1].tool_calls[0] must be an object",
    chat(USER, ANSWER | {"tool_calls": [call(type="x")]}): "must have type 'function'",
    chat(USER, ANSWER | {"tool_calls": [call(more=1)]}): "must have type 'function'",
    chat(USER, ANSWER | {"tool_calls": [call(function=7)]}): "[0].function must be an object",
    chat(USER, ANSWER | {"tool_calls": [call(function={"name": "f"})]}): "name and arguments",
    chat(USER, ANSWER | {"tool_calls": [call("{")]}): "arguments: the text is not JSON",
    chat(USER, ANSWER | {"tool_calls": [call("[]")]}): "arguments: the text must be a JSON object",
    chat(USER, ANSWER | {"tool_calls": [call(7)]}): "arguments must be an object",
    chat(USER, ANSWER | {"tool_calls": [call(id=7)]}): "[0].id must be a text",
    chat(USER, ANSWER, tools=[]): "tools must be a list with at least one entry",
    chat(USER, ANSWER, tools=None): "tools must be a list",
    chat(USER, ANSWER, tools=["weather"]): "tools[0] must be an object",
    chat(USER, ANSWER, tools=[TOOL | {"type": "web"}]): "tools[0] must have type 'function'",
    chat(USER, ANSWER, tools=[TOOL | {"x": 1}]): "tools[0] must have type 'function'",
    chat(USER, ANSWER, tools=[TOOL | {"function": {}}]): "tools[0].function.name must be a text",
    chat(USER, ANSWER, tools=[TOOL | {"function": {"name": "f", "x": 1}}]): "unknown key 'x'",
}


@pytest.mark.parametrize("bad", WRONG_LINES, ids=lambda bad: repr(bad[:40]))
def test_a_wrong_line_is_named_with_its_reason(bad: bytes) -> None:
    """Between two good lines, so that its number is its own."""
    (fault,) = faults_of(GOOD, bad, GOOD)
    assert fault.line == 2
    assert WRONG_LINES[bad] in fault.reason


def test_every_wrong_line_is_told_at_once() -> None:
    """Neighbours with one reason are told together; the message says how many there are."""
    lines = [GOOD, b"", GOOD, b"{", b"{", b"{", GOOD]
    faults = faults_of(*lines)
    assert [fault.line for fault in faults] == [2, 4, 5, 6]
    with pytest.raises(DataError) as caught:
        check_rows(lines)
    first, second, third = str(caught.value).split("\n")
    assert first == "4 lines of the data cannot be used."
    assert second == "Line 2: is empty: take it out."
    assert third.startswith("Lines 4 to 6: is not JSON")


def test_a_message_has_an_end() -> None:
    """What it does not show, it counts; the error carries the rest, up to a limit of its own."""
    bad = [b"", b"7"] * (MAX_FAULTS // 2 + 10)
    with pytest.raises(DataError) as caught:
        check_rows(bad)
    told = str(caught.value).split("\n")
    assert len(told) == 1 + SHOWN_FAULTS + 1
    assert told[0].startswith(f"{len(bad):,} lines")
    assert told[-1] == f"{len(bad) - SHOWN_FAULTS:,} more lines are not shown."
    assert len(caught.value.faults) == MAX_FAULTS


def test_a_data_set_keeps_to_one_form() -> None:
    """The first row decides; the fault names both forms."""
    faults = faults_of(line({"text": "a"}), GOOD, line({"prompt": "a", "completion": "b"}))
    assert [fault.line for fault in faults] == [2, 3]
    assert "is a chat row and line 1 is a text row" in faults[0].reason


@pytest.mark.parametrize("lines", [[], [b""]])
def test_a_data_set_has_rows(lines: list[bytes]) -> None:
    """An empty one is an error of its own."""
    with pytest.raises(DataError):
        check_rows(lines)


def test_no_faults_raise_nothing() -> None:
    """So that it can be asked at the end of every reading."""
    Faults().raise_any()


def test_a_fault_does_not_repeat_the_data() -> None:
    """A message goes to logs and clients; a line may hold anything."""
    (fault,) = faults_of(GOOD, line({"text": "a", "k" * 5000: "secret"}))
    assert len(fault.reason) < 200
    assert "secret" not in fault.reason


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["messages", "role", "content", "user", "assistant", "tools", "weight", "text"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_anything_is_a_row_or_a_fault(value: Any) -> None:
    """No value makes the reader fail in another way."""
    faults = Faults()
    text = json.dumps({"messages": value} if not isinstance(value, dict) else value).encode()
    rows = list(read_rows([text, GOOD], faults))
    assert len(rows) + len(faults) == 2
