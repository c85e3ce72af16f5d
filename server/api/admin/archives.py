"""The routes that give a whole chain as one file, and that take one."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from adapters.lineage import Chain, Stage
from server.api.admin.asked import chain_name, flag_of, json_response, new_chain_name, query_of
from server.api.admin.ports import Archives
from server.api.admin.stages import base_name
from server.api.admin.transfers import sent
from server.api.admin.uploads import Bounded, save_form
from server.api.admin.wire import chain_row, stage_row
from server.api.parts import Parts

OPENED = "/admin/chains"
"""The path whose POST may be as long as ``max_upload_bytes``."""
PACKED = "/admin/chains/{chain}/archive"

_MOST_NAME_BYTES = 64

on_thread = anyio.to_thread.run_sync


def archive_routes(parts: Parts, archives: Archives) -> APIRouter:
    """``GET /admin/chains/{chain}/archive`` and ``POST /admin/chains``."""
    router, base = APIRouter(), base_name(parts)

    @router.get(PACKED, response_model=None)
    async def pack(chain: str, request: Request) -> Response:
        with_data = flag_of(query_of(request, "data"), "data", default=False)
        name = chain_name(chain)
        package = await on_thread(lambda: archives.pack(name, with_data=with_data))
        return await on_thread(sent, package)

    @router.post(OPENED, response_model=None)
    async def bring_in(request: Request) -> Response:
        query_of(request)
        folder = await on_thread(archives.incoming)
        try:
            chain, stages = await _received(request, archives, folder)
        finally:
            with anyio.CancelScope(shield=True):
                await on_thread(lambda: shutil.rmtree(folder, ignore_errors=True))
        rows = [stage_row(stage, base) for stage in stages]
        return json_response({**chain_row(chain, base), "stages": rows})

    return router


async def _received(
    request: Request, archives: Archives, folder: Path
) -> tuple[Chain, list[Stage]]:
    file, given = folder / "The file", Bounded("name", _MOST_NAME_BYTES)
    with await on_thread(file.open, "wb") as sink:
        seen = await save_form(request, {"file": sink, "name": given})
    name = None
    if "name" in seen:
        name = new_chain_name(given.getvalue().decode("utf-8", "replace"), "name")
    chain, stages = await on_thread(archives.bring_in, file, name)
    return chain, list(stages)
