"""``/v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import re

import anyio.to_thread
from fastapi import APIRouter, Request
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from server.api.anthropic.ask import Prompt, message_ask
from server.api.anthropic.errors import MESSAGES
from server.api.anthropic.message import MessageTelling
from server.api.parts import Parts
from server.api.reading import json_response, read_body
from server.api.schema.messages import CountTokensRequest, MessagesRequest
from server.api.telling import ToldResponse
from server.core.errors import InvalidRequest

VERSION_HEADER = "anthropic-version"
OLDEST = "2023-06-01"
"""The first version with these schemas and events; later ones have added to them."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def anthropic_routes(parts: Parts) -> APIRouter:
    """Messages, and how many tokens one would read."""
    router = APIRouter()

    @router.post(MESSAGES, response_model=None)
    async def messages(request: Request) -> Response:
        _check_version(request)
        asked, headers = await read_body(MessagesRequest, request, parts)
        prompt = Prompt(asked)
        ask = message_ask(asked, prompt, parts)
        telling = MessageTelling(asked, ask, prompt)
        return ToldResponse(
            parts, ask, telling, stream=bool(asked.stream), headers=headers, ping=_ping
        )

    @router.post(f"{MESSAGES}/count_tokens", response_model=None)
    async def count_tokens(request: Request) -> Response:
        _check_version(request)
        asked, headers = await read_body(CountTokensRequest, request, parts)
        with parts.catalog.pin(asked.model):
            prompt = await anyio.to_thread.run_sync(
                Prompt(asked), parts.tokenizer, abandon_on_cancel=True
            )
        return json_response({"input_tokens": len(prompt.tokens)}, headers)

    return router


def _check_version(request: Request) -> None:
    given = request.headers.get(VERSION_HEADER, OLDEST)
    if not _DATE.fullmatch(given) or given < OLDEST:
        raise InvalidRequest(
            f"{VERSION_HEADER} must be a date from {OLDEST} on, or left out.", param=VERSION_HEADER
        )


def _ping() -> ServerSentEvent:
    return ServerSentEvent('{"type":"ping"}', event="ping", sep="\n")
