"""What a model said as the fields of OpenAI's messages and deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.core.spoken import CallArguments, CallBegun, Said, Spoken, Thought, speech


def call_id(row_id: str, choice: int, index: int) -> str:
    """The id of a call: unique, because its answer's id is, and the same whole and streamed."""
    return f"call_{row_id.rpartition('-')[2]}_{choice}_{index}"


def message_fields(events: Sequence[Spoken], row_id: str, choice: int) -> dict[str, Any]:
    """``content``, and ``reasoning_content`` and ``tool_calls`` where there are some.

    The content is null where there is a call and no word.
    """
    whole = speech(events)
    fields: dict[str, Any] = {"content": whole.text or (None if whole.calls else "")}
    if whole.reasoning:
        fields["reasoning_content"] = whole.reasoning
    if whole.calls:
        fields["tool_calls"] = [
            {
                "id": call_id(row_id, choice, index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(whole.calls)
        ]
    return fields


def delta_fields(events: Sequence[Spoken], row_id: str, choice: int) -> dict[str, Any]:
    """The same for what is new: a call's id and name come once, its arguments in pieces."""
    fields: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        match event:
            case Said(text):
                fields["content"] = fields.get("content", "") + text
            case Thought(text):
                fields["reasoning_content"] = fields.get("reasoning_content", "") + text
            case CallBegun(index, name):
                calls[index] = {
                    "index": index,
                    "id": call_id(row_id, choice, index),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
            case CallArguments(index, text):
                call = calls.setdefault(index, {"index": index, "function": {"arguments": ""}})
                call["function"]["arguments"] += text
            case _:
                pass
    return {**fields, **({"tool_calls": list(calls.values())} if calls else {})}
