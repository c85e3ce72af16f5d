"""Requests for responses, as they come over the wire, and their streams."""

from __future__ import annotations

from typing import Any

import httpx
from openai.types.responses import Response, ResponseStreamEvent

from tests.server.api.serving import BASE, Served
from tests.server.api.strict import named_events, strictly

URL = "/v1/responses"
LOGPROBS = "message.output_text.logprobs"


def response(**fields: Any) -> dict[str, Any]:
    """The smallest request for a response, changed."""
    return {"model": BASE, "input": "hi", **fields}


async def ask(server: Served, **fields: Any) -> httpx.Response:
    """A response; fields replace or extend the smallest request."""
    return await server.http.post(URL, json=response(**fields))


async def answer(server: Served, **fields: Any) -> dict[str, Any]:
    """The body of a response, valid for the SDK's own type."""
    given = await ask(server, **fields)
    assert given.status_code == 200, given.text
    body: dict[str, Any] = given.json()
    strictly(Response, body)
    return body


async def stream(server: Served, **fields: Any) -> list[dict[str, Any]]:
    """The events of a streamed response: numbered, and each valid for the SDK's own types."""
    given = await ask(server, stream=True, **fields)
    assert given.status_code == 200, given.text
    return checked(named_events(given.text))


def checked(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``events``, which are numbered from 0 and each valid for the SDK's own types."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        strictly(ResponseStreamEvent, event)
    return events


def text_of(body: dict[str, Any]) -> str:
    """The text of a response with one message."""
    (item,) = body["output"]
    (part,) = item["content"]
    return str(part["text"])
