"""The items that go in: as they are kept and listed, and as chat templates know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from server.api.schema.responses import MessageItem
from server.api.wire import Body


def listed(items: Iterable[MessageItem], new_id: Callable[[], str]) -> list[Body]:
    """``items`` as ``/input_items`` shows them, each with an id."""
    return [_listed(item, item.id or f"msg_{new_id()}") for item in items]


def _listed(item: MessageItem, item_id: str) -> Body:
    if item.role == "assistant":
        parts = [output_text(part.text, part.logprobs or []) for part in item.content]
    else:
        parts = [{"type": "input_text", "text": part.text} for part in item.content]
    return {
        "id": item_id,
        "type": "message",
        "status": item.status or "completed",
        "role": item.role,
        "content": parts,
    }


def output_text(text: str, logprobs: list[Any]) -> Body:
    """A part of an answer."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def conversation(instructions: str | None, items: Iterable[Body]) -> list[dict[str, Any]]:
    """What chat templates know: they call the developer the system."""
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    for item in items:
        role = "system" if item["role"] == "developer" else item["role"]
        text = "".join(part["text"] for part in item["content"])
        messages.append({"role": role, "content": text})
    return messages
