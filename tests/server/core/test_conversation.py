"""Conversations as templates take them, in the template's own way and in ours."""

from __future__ import annotations

import pytest

from server.core.conversation import (
    Conversation,
    PastCall,
    Tool,
    Turn,
    own_messages,
    template_messages,
)

CALL = PastCall("call_1", "f", '{"a": 1}')
ASK = Turn("user", "Well?", name="ann")
CALLED = Turn("assistant", "Look:", calls=(CALL,))
RESULT = Turn("tool", "7", answers="call_1")


def test_arguments_become_objects_unless_they_are_none() -> None:
    """Templates write them out; what was cut off stays as it is."""
    for written, given in (('{"a": 1}', {"a": 1}), ('{"a": ', '{"a": '), ("[1]", "[1]")):
        turn = Turn("assistant", "", calls=(PastCall("x", "f", written),))
        (message,) = template_messages([turn], short_ids=False)
        assert message["tool_calls"][0]["function"]["arguments"] == given


@pytest.mark.parametrize("given", ["call_1", "Abcdefgh9"])
def test_short_ids_are_the_same_for_a_call_and_its_result(given: str) -> None:
    """Nine letters and digits; those that are so already stay."""
    turns = [
        Turn("assistant", "", calls=(PastCall(given, "f", "{}"),)),
        Turn("tool", "7", answers=given),
    ]
    called, result = template_messages(turns, short_ids=True)
    short = called["tool_calls"][0]["id"]
    assert (len(short), short.isalnum(), result["tool_call_id"]) == (9, True, short)
    assert (short == given) == (len(given) == 9)


def test_in_our_own_way_calls_are_text_and_results_the_user_s() -> None:
    """One message for all results, before whatever the assistant says next."""
    messages = own_messages(Conversation((ASK, CALLED, RESULT, RESULT, Turn("assistant", "7."))))
    assert messages == [
        {"role": "user", "content": "Well?", "name": "ann"},
        {
            "role": "assistant",
            "content": 'Look:\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        },
        {"role": "user", "content": "\n".join(["<tool_response>\n7\n</tool_response>"] * 2)},
        {"role": "assistant", "content": "7."},
    ]


def test_tools_are_told_behind_the_system_s_words() -> None:
    """With how many calls there must or may be."""
    tool = Tool({"name": "f"})
    system = Turn("system", "Be brief.")
    told = [
        own_messages(Conversation(turns, (tool,), required=required, most_calls=most))[0]
        for turns, required, most in (((system, ASK), False, None), ((ASK,), True, 1))
    ]
    assert all(message["role"] == "system" for message in told)
    assert told[0]["content"].startswith("Be brief.\n\nYou may call tools. These")
    assert told[1]["content"].startswith("Answer by calling a tool. Call only one. These")
    assert '\n{"name": "f"}\n' in told[0]["content"]
