"""vLLM's ``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``: chains that begin and end.

An adapter that is loaded is a chain's first revision like any other import: it stays over a
restart, and can be trained further.
"""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from server.api.admin.asked import new_chain_name
from server.api.admin.ports import Loads
from server.api.admin.stages import base_name
from server.api.parts import Parts
from server.api.reading import read_body
from server.api.schema.loads import LoadRequest, UnloadRequest
from server.core.errors import UnknownModel


def load_routes(parts: Parts) -> APIRouter:
    """Both routes, where adapters can be loaded."""
    router = APIRouter()
    if parts.loads is not None:
        _add(router, parts, parts.loads)
    return router


def _add(router: APIRouter, parts: Parts, loads: Loads) -> None:
    base = base_name(parts)

    @router.post("/v1/load_lora_adapter", response_model=None)
    async def load(request: Request) -> Response:
        asked, headers = await read_body(LoadRequest, request, parts)
        if asked.base_model_name not in (None, base):
            raise UnknownModel(
                f"The adapter would be one of {base!r}, not of {asked.base_model_name!a}.",
                param="base_model_name",
            )
        chain = _chain_of(asked.lora_name, base)
        await anyio.to_thread.run_sync(
            lambda: loads.load(chain, asked.lora_path, again=asked.load_inplace)
        )
        return _said(f"LoRA adapter '{asked.lora_name}' added", headers)

    @router.post("/v1/unload_lora_adapter", response_model=None)
    async def unload(request: Request) -> Response:
        asked, headers = await read_body(UnloadRequest, request, parts)
        chain = _chain_of(asked.lora_name, base)
        await anyio.to_thread.run_sync(loads.unload, chain)
        return _said(f"LoRA adapter '{asked.lora_name}' removed", headers)


def _chain_of(name: str, base: str) -> str:
    """The chain; ``name`` may also be what requests call it, ``base:chain``."""
    return new_chain_name(name.removeprefix(f"{base}:"), "lora_name")


def _said(what: str, headers: dict[str, str]) -> Response:
    return PlainTextResponse(f"Success: {what} successfully.", headers=headers)
