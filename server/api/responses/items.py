"""The items that go in, as they are kept and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from server.api.schema.responses_items import (
    AnyItem,
    CallItem,
    CallOutputItem,
    MessageItem,
    ReasoningItem,
)
from server.api.wire import Body


def listed(items: Iterable[AnyItem], new_id: Callable[[], str]) -> list[Body]:
    """``items`` as ``/input_items`` shows them, each with an id."""
    return [_listed(item, new_id) for item in items]


def output_text(text: str, logprobs: list[Any]) -> Body:
    """A part of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning_text(text: str) -> Body:
    """A part of what is thought."""
    return {"type": "reasoning_text", "text": text}


def _listed(item: AnyItem, new_id: Callable[[], str]) -> Body:
    match item:
        case MessageItem():
            prefix, fields = "msg", _message(item)
        case CallItem():
            prefix = "fc"
            fields = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        case CallOutputItem():
            prefix, fields = "fco", {"call_id": item.call_id, "output": item.text}
        case ReasoningItem():
            prefix = "rs"
            fields = {"summary": [], "content": [reasoning_text(item.text)]}
    return {
        "id": item.id or f"{prefix}_{new_id()}",
        "type": item.type,
        "status": item.status or "completed",
        **fields,
    }


def _message(item: MessageItem) -> Body:
    if item.role == "assistant":
        parts = [output_text(part.text, part.logprobs or []) for part in item.content]
    else:
        parts = [{"type": "input_text", "text": part.text} for part in item.content]
    return {"role": item.role, "content": parts}
