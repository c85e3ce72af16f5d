"""Messages and unknown fields: named by their path, and never repeated at length."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.schema.chat import ChatRequest
from server.api.schema.read import ignored_header
from server.core.errors import InvalidRequest, UnsupportedField
from tests.server.api.requests import CHAT, MESSAGE, read, read_chat


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "user", "content": ["x"]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": [{"type": "x"}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": "x", "name": 1}, "messages[1].name"),
        ("hi", "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
    ],
)
def test_a_wrong_message_is_named_by_its_path(message: Any, param: str) -> None:
    """Conversations are long; the client must find the fault."""
    with pytest.raises(InvalidRequest, match=r"^messages") as caught:
        read_chat(messages=[MESSAGE, message])
    assert not isinstance(caught.value, UnsupportedField)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "content": "x"}, "role"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "refusal"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio"),
        ({"role": "assistant", "content": "x", "function_call": {}}, "function_call"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content[0].type"),
        ({"role": "user", "content": [{"type": "file"}]}, "content[0].type"),
    ],
)
def test_what_a_message_cannot_carry_yet_is_named(message: Any, param: str) -> None:
    """An image that is dropped in silence gives a confident wrong answer."""
    with pytest.raises(UnsupportedField) as caught:
        read_chat(messages=[message])
    assert caught.value.param == f"messages[0].{param}"


def test_parts_of_text_are_one_text() -> None:
    """A template knows strings alone."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = read_chat(messages=[{"role": "user", "content": parts}]).messages
    assert message.text == "ab"


def test_fields_that_nobody_defines_are_named_with_their_paths() -> None:
    """They have no effect, and the client can see that."""
    message = {"role": "user", "content": [{"type": "text", "text": "x", "c": 1}], "b": 1}
    payload = {**CHAT, "messages": [message], "a": 1, "stream": True, "stream_options": {"d": 1}}
    _, unknown = read(ChatRequest, payload)
    assert set(unknown) == {"a", "messages[0].b", "messages[0].content[0].c", "stream_options.d"}
    assert read(ChatRequest, CHAT)[1] == ()


def test_fields_that_nobody_defines_can_be_refused() -> None:
    """``unknown_fields = refuse`` catches a misspelled option."""
    with pytest.raises(InvalidRequest, match="temprature") as caught:
        read(ChatRequest, {**CHAT, "temprature": 1}, refuse_unknown=True)
    assert caught.value.param == "temprature"


def test_the_header_of_ignored_fields_is_short_visible_ascii() -> None:
    """Names come from the client and must not become header lines of ours."""
    assert ignored_header(["a", "b[0].c"]) == "a, b[0].c"
    header = ignored_header(["x\r\nset-cookie: y", "\u00e9", "z" * 999, *map(str, range(99))])
    assert header.isascii()
    assert header.isprintable()
    assert header.startswith("x%0D%0Aset-cookie%3A%20y, %C3%A9, " + "z" * 64 + ", 0, ")
    assert header.endswith(", and 86 more")


def test_no_error_repeats_the_value() -> None:
    """Prompts must not turn up in errors and logs."""
    secret = "s3cret" * 50
    for fields in (
        {"temperature": secret},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": {secret: 1}}]}]},
        {"messages": [{"role": secret, "content": "x"}]},
        {"service_tier": secret},
        {"metadata": {secret: "x"}},
    ):
        with pytest.raises(InvalidRequest) as caught:
            read_chat(**fields)
        assert "s3cret" * 12 not in str(caught.value)


def test_many_faults_cost_no_more_than_one() -> None:
    """A million wrong messages are refused at the first."""
    with pytest.raises(InvalidRequest) as caught:
        read_chat(messages=[{"role": "user"}] * 10_000)
    assert caught.value.param == "messages[0].content"
