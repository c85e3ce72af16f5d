"""The routes that take adapters from elsewhere and give revisions to elsewhere."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from adapters.lineage import Stage
from server.api.admin.asked import (
    chain_name,
    json_response,
    new_chain_name,
    query_of,
    revision_name,
)
from server.api.admin.ports import Package, Transfers
from server.api.admin.stages import base_name
from server.api.admin.uploads import Bounded, save_form
from server.api.admin.wire import stage_row
from server.api.parts import Parts
from server.core.errors import InvalidRequest

IMPORTS = "/admin/chains/{chain}/import"
"""The path whose POST may be as long as ``max_upload_bytes``."""
EXPORTS = "/admin/chains/{chain}/export"
NOTES = "x-chainlora-notes"
"""The header of an export that holds a JSON list of what its user should know."""
FORMATS = ("mlx-lm", "npz", "peft")

_PIECE = 1 << 18
_MOST_CONFIG_BYTES = 1 << 20
_MOST_FIELD_BYTES = 64
_MOST_NAME = 256

on_thread = anyio.to_thread.run_sync


def transfer_routes(parts: Parts, transfers: Transfers) -> APIRouter:
    """``import`` and ``export`` of ``/admin/chains``."""
    router = APIRouter()

    @router.post(IMPORTS, response_model=None)
    async def bring_in(chain: str, request: Request) -> Response:
        query_of(request)
        folder = await on_thread(transfers.incoming, new_chain_name(chain, "chain"))
        try:
            stage = await _received(request, transfers, chain, folder)
        finally:
            with anyio.CancelScope(shield=True):
                await on_thread(lambda: shutil.rmtree(folder, ignore_errors=True))
        return json_response(stage_row(stage, base_name(parts)))

    @router.get(EXPORTS, response_model=None)
    async def export(chain: str, request: Request) -> Response:
        query = query_of(request, "format", "revision", "fold_scale", "base_model")
        name, form = chain_name(chain), _format_of(query)
        revision = revision_name(query["revision"]) if "revision" in query else None
        fold_scale, base_model = _number(query, "fold_scale"), query.get("base_model")
        if base_model is not None and not 0 < len(base_model) <= _MOST_NAME:
            raise InvalidRequest(
                f"base_model: must have 1 to {_MOST_NAME} characters.", param="base_model"
            )
        package = await on_thread(
            lambda: transfers.package(
                name, revision, form, fold_scale=fold_scale, base_model=base_model
            )
        )
        return await on_thread(sent, package)

    return router


async def _received(request: Request, transfers: Transfers, chain: str, folder: Path) -> Stage:
    file, config = folder / "file", folder / "config"
    small = {name: Bounded(name, _MOST_FIELD_BYTES) for name in ("scale", "num_layers")}
    text = Bounded("config", _MOST_CONFIG_BYTES)
    with await on_thread(file.open, "wb") as sink:
        seen = await save_form(request, {"file": sink, "config": text, **small})
    if "config" in seen:
        await on_thread(config.write_bytes, text.getvalue())
    given = {
        name: part.getvalue().decode("ascii", "replace")
        for name, part in small.items()
        if name in seen
    }
    scale, num_layers = _number(given, "scale"), _layers(given)
    return await on_thread(
        lambda: transfers.bring_in(
            chain,
            file,
            config if "config" in seen else None,
            scale=scale,
            num_layers=num_layers,
        )
    )


def _format_of(query: Mapping[str, str]) -> str:
    form = query.get("format")
    if form not in FORMATS:
        raise InvalidRequest(f"format: must be one of {', '.join(FORMATS)}.", param="format")
    return form


def _number(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    text = given[name]
    try:
        value = float(text) if text.isascii() and len(text) <= _MOST_FIELD_BYTES else math.nan
    except ValueError:
        value = math.nan
    if not 0 < abs(value) <= 10_000:
        raise InvalidRequest(f"{name}: must be a number that is not 0, at most 10000.", param=name)
    return value


def _layers(given: Mapping[str, str]) -> int | None:
    text = given.get("num_layers")
    if text is None:
        return None
    if text == "-1":
        return -1
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 100_000):
        raise InvalidRequest(
            "num_layers: must be -1 for all blocks, or at least 1.", param="num_layers"
        )
    return int(text)


def sent(package: Package) -> Response:
    """The file as a stream. Its name goes at once, so that nothing is left whatever happens."""
    try:
        stream = package.path.open("rb")
        size = package.path.stat().st_size
    finally:
        package.path.unlink(missing_ok=True)
    kind = "application/zip" if package.name.endswith(".zip") else "application/octet-stream"
    headers = {
        "content-length": str(size),
        "content-disposition": f'attachment; filename="{package.name}"',
        NOTES: json.dumps(list(package.notes)),
    }
    return StreamingResponse(_pieces(stream), headers=headers, media_type=kind)


async def _pieces(stream: BinaryIO) -> AsyncIterator[bytes]:
    with stream:
        while piece := await on_thread(stream.read, _PIECE):
            yield piece
