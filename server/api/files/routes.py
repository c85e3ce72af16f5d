"""The routes of files: upload, list, look at, download, delete."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from adapters.errors import DataError
from adapters.lineage import StoredFile
from server.api.admin.asked import json_response, limit_of, query_of
from server.api.admin.uploads import Bounded, removed_on_error, save_named_form
from server.api.admin.wire import deleted_row, list_of
from server.api.files.asked import (
    ascending_of,
    expiry_of,
    file_id,
    listed_purpose,
    upload_purpose,
)
from server.api.files.ports import Files
from server.api.files.wire import file_row

FILES = "/v1/files"
"""The path whose POST may be as long as ``max_upload_bytes``."""

_MOST_LISTED = 10_000
_MOST_PART_BYTES = 64
_SMALL = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

on_thread = anyio.to_thread.run_sync


def file_routes(files: Files) -> APIRouter:
    """``/v1/files``."""
    router = APIRouter()

    @router.post(FILES, response_model=None)
    async def add(request: Request) -> Response:
        query_of(request)
        path = await on_thread(files.incoming)
        with removed_on_error(path):
            return json_response(file_row(await _received(request, files, path)))

    @router.get(FILES, response_model=None)
    async def all_files(request: Request) -> Response:
        query = query_of(request, "after", "limit", "order", "purpose")
        after = file_id(query["after"], param="after") if "after" in query else None
        limit = limit_of(query, default=_MOST_LISTED, most=_MOST_LISTED)
        purpose, ascending = listed_purpose(query.get("purpose")), ascending_of(query.get("order"))
        page = await on_thread(
            lambda: files.list(purpose=purpose, after=after, limit=limit, ascending=ascending)
        )
        rows = [file_row(file) for file in page.data]
        ends = {
            "first_id": rows[0]["id"] if rows else None,
            "last_id": rows[-1]["id"] if rows else None,
        }
        return json_response({**list_of(rows, has_more=page.has_more), **ends})

    @router.get(FILES + "/{file}", response_model=None)
    async def one(file: str, request: Request) -> Response:
        query_of(request)
        return json_response(file_row(await on_thread(files.get, file_id(file))))

    @router.get(FILES + "/{file}/content", response_model=None)
    async def content(file: str, request: Request) -> Response:
        query_of(request)
        found = await on_thread(files.content, file_id(file))
        if isinstance(found, str):
            return Response(found, media_type="text/csv")
        return FileResponse(found, media_type="application/octet-stream")

    @router.delete(FILES + "/{file}", response_model=None)
    async def delete(file: str, request: Request) -> Response:
        query_of(request)
        await on_thread(files.delete, file_id(file))
        return json_response(deleted_row("file", file))

    return router


async def _received(request: Request, files: Files, path: Path) -> StoredFile:
    small = {name: Bounded(name, _MOST_PART_BYTES) for name in _SMALL}
    with await on_thread(path.open, "wb") as sink:
        seen, name = await save_named_form(request, {"file": sink, **small})
    given = {
        part: sink.getvalue().decode("ascii", "replace")
        for part, sink in small.items()
        if part in seen
    }
    purpose, expires_s = upload_purpose(given.get("purpose")), expiry_of(given)

    def work() -> StoredFile:
        try:
            return files.add(path, name=name, purpose=purpose, expires_s=expires_s)
        except DataError as error:
            error.param = "file"
            raise

    return await on_thread(work)
