"""The routes: each reads its request, and answers from the parts that it is given."""

from __future__ import annotations

import dataclasses

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat import ChatShape, chat_ask
from server.api.completions import CompletionShape, completion_ask
from server.api.parts import Parts
from server.api.reading import json_response, read_body
from server.api.respond import GenerationResponse
from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.fields import MODEL_LENGTH
from server.api.wire import model_row
from server.core.errors import EngineFailed, ShuttingDown, UnknownModel

READY, FAILED = "ready", "failed"
"""States of the engine: it takes requests; its device is poisoned."""


def generation_routes(parts: Parts) -> APIRouter:
    """Chat completions and completions."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        asked, headers = await read_body(ChatRequest, request, parts)
        ask = chat_ask(asked, parts)
        shape = ChatShape(asked, ask, parts)
        return GenerationResponse(parts, ask, shape, stream=bool(asked.stream), headers=headers)

    @router.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        asked, headers = await read_body(CompletionRequest, request, parts)
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

        def listed() -> Response:
            rows = [model_row(model) for model in parts.catalog.models(pins=pins)]
            return json_response({"object": "list", "data": rows})

        # Linear in the chains, 9 ms for 1,000: the event loop does not wait for it.
        return await anyio.to_thread.run_sync(listed)

    @router.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> Response:
        if len(name) > MODEL_LENGTH:
            raise UnknownModel(f"No model's name is longer than {MODEL_LENGTH}.", param="model")
        return json_response(model_row(parts.catalog.model(name)))

    return router


def health_routes(parts: Parts) -> APIRouter:
    """Whether the process runs, and whether it can take requests."""
    router = APIRouter()

    @router.get("/health/live", response_model=None)
    async def live() -> Response:
        return json_response({"status": "live"})

    @router.get("/health/ready", response_model=None)
    async def ready() -> Response:
        state = parts.engine.stats().state
        if state == FAILED:
            raise EngineFailed("The device failed; this process is about to be replaced.")
        if state != READY:
            raise ShuttingDown(f"The engine takes no requests: it is {state}.")
        return json_response({"status": state})

    return router


def admin_routes(parts: Parts) -> APIRouter:
    """What the operator may look at."""
    router = APIRouter()

    @router.get("/admin/engine", response_model=None)
    async def engine() -> Response:
        stats = dataclasses.asdict(parts.engine.stats())
        return json_response({"object": "engine", "stats": stats, "facts": dict(parts.facts())})

    return router
