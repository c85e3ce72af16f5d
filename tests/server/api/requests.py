"""Requests as they come over the wire, for tests of what they may hold."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.fields import Schema
from server.api.schema.read import read_request

MESSAGE = {"role": "user", "content": "hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [MESSAGE]}
Read = TypeVar("Read", bound=Schema)
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}


def read_chat(**fields: Any) -> ChatRequest:
    """The smallest chat request, changed."""
    return read(ChatRequest, {**CHAT, **fields})[0]


def read_completion(**fields: Any) -> CompletionRequest:
    """The smallest completion request, changed."""
    return read(CompletionRequest, {**COMPLETION, **fields})[0]


def read(
    schema: type[Read], payload: dict[str, Any], *, refuse_unknown: bool = False
) -> tuple[Read, tuple[str, ...]]:
    """``payload`` as it comes over the wire."""
    return read_request(schema, json.dumps(payload).encode(), refuse_unknown=refuse_unknown)
