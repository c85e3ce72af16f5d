"""The routes: each reads its request, and answers from the parts that it is given."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat import ChatShape, chat_ask
from server.api.completions import CompletionShape, completion_ask
from server.api.parts import Parts
from server.api.respond import GenerationResponse
from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.fields import MODEL_LENGTH, GenerationRequest
from server.api.schema.read import ignored_header, read_request
from server.api.wire import Body, encode, model_row
from server.core.errors import EngineFailed, ShuttingDown, UnknownModel

IGNORED = "x-chainlora-ignored"
"""The response header that names request fields without effect."""

READY, FAILED = "ready", "failed"
"""States of the engine: it takes requests; its device is poisoned."""

_LONG_BODY = 64 * 1024
"""Bytes from which on a body is read on a thread, beside the event loop."""

Read = TypeVar("Read", bound=GenerationRequest)


def generation_routes(parts: Parts) -> APIRouter:
    """Chat completions and completions."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        asked, headers = await _read(ChatRequest, request, parts)
        ask = chat_ask(asked, parts)
        shape = ChatShape(asked, ask, parts)
        return GenerationResponse(parts, ask, shape, stream=bool(asked.stream), headers=headers)

    @router.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        asked, headers = await _read(CompletionRequest, request, parts)
        ask = completion_ask(asked, parts)
        shape = CompletionShape(asked, ask, parts)
        return GenerationResponse(parts, ask, shape, stream=bool(asked.stream), headers=headers)

    return router


def model_routes(parts: Parts) -> APIRouter:
    """Which names work as ``model``."""
    router = APIRouter()

    @router.get("/v1/models", response_model=None)
    async def models(request: Request) -> Response:
        pins = request.query_params.get("pins") == "1"
        rows = [model_row(model) for model in parts.catalog.models(pins=pins)]
        return _json({"object": "list", "data": rows})

    @router.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> Response:
        if len(name) > MODEL_LENGTH:
            raise UnknownModel(f"No model's name is longer than {MODEL_LENGTH}.", param="model")
        return _json(model_row(parts.catalog.model(name)))

    return router


def health_routes(parts: Parts) -> APIRouter:
    """Whether the process runs, and whether it can take requests."""
    router = APIRouter()

    @router.get("/health/live", response_model=None)
    async def live() -> Response:
        return _json({"status": "live"})

    @router.get("/health/ready", response_model=None)
    async def ready() -> Response:
        state = parts.engine.stats().state
        if state == FAILED:
            raise EngineFailed("The device failed; this process is about to be replaced.")
        if state != READY:
            raise ShuttingDown(f"The engine takes no requests: it is {state}.")
        return _json({"status": state})

    return router


def admin_routes(parts: Parts) -> APIRouter:
    """What the operator may look at."""
    router = APIRouter()

    @router.get("/admin/engine", response_model=None)
    async def engine() -> Response:
        stats = dataclasses.asdict(parts.engine.stats())
        return _json({"object": "engine", "stats": stats, "facts": dict(parts.facts())})

    return router


async def _read(schema: type[Read], request: Request, parts: Parts) -> tuple[Read, dict[str, str]]:
    """The request's body, and the headers that its answer owes to it."""
    body = await request.body()
    refuse = parts.limits.refuse_unknown_fields

    def read() -> tuple[Read, tuple[str, ...]]:
        return read_request(schema, body, refuse_unknown=refuse)

    asked, ignored = read() if len(body) < _LONG_BODY else await anyio.to_thread.run_sync(read)
    return asked, {IGNORED: ignored_header(ignored)} if ignored else {}


def _json(body: Body) -> Response:
    return Response(encode(body), media_type="application/json")
