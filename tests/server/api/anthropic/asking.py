"""Requests for messages, as they come over the wire, and their streams."""

from __future__ import annotations

from typing import Any

import httpx
from anthropic.types import RawMessageStreamEvent

from tests.server.api.serving import BASE, USER, Served
from tests.server.api.strict import named_events, strictly


def message(**fields: Any) -> dict[str, Any]:
    """The smallest request for a message, changed."""
    return {"model": BASE, "messages": [USER], "max_tokens": 100, **fields}


async def ask(server: Served, **fields: Any) -> httpx.Response:
    """A message; fields replace or extend the smallest request."""
    return await server.http.post("/v1/messages", json=message(**fields))


async def count(server: Served, **fields: Any) -> httpx.Response:
    """A count of tokens; fields replace or extend the smallest request."""
    body = {"model": BASE, "messages": [USER], **fields}
    return await server.http.post("/v1/messages/count_tokens", json=body)


async def stream(server: Served, **fields: Any) -> list[dict[str, Any]]:
    """The events of a streamed message, each of them valid for the SDK's own types.

    Pings, for which the SDK has no type, are left out.
    """
    response = await ask(server, stream=True, **fields)
    assert response.status_code == 200
    events = [event for event in named_events(response.text) if event != {"type": "ping"}]
    for event in events:
        strictly(RawMessageStreamEvent, event)
    return events
