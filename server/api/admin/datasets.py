"""The routes of data sets: training rows, uploaded once and used by many stages."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.admin.asked import dataset_id, json_response, limit_of, query_of
from server.api.admin.ports import Datasets
from server.api.admin.uploads import clean_name, removed_on_error, save_upload
from server.api.admin.wire import dataset_row, deleted_row, list_of

UPLOADS = "/admin/datasets"
"""The path whose POST may be as long as ``max_upload_bytes``."""

on_thread = anyio.to_thread.run_sync


def dataset_routes(datasets: Datasets) -> APIRouter:
    """``/admin/datasets``."""
    router = APIRouter()

    @router.post(UPLOADS, response_model=None)
    async def add(request: Request) -> Response:
        asked = query_of(request, "name").get("name")
        path = await on_thread(datasets.incoming)
        with removed_on_error(path):
            given = await save_upload(request, path)
            name = given if asked is None else clean_name(asked)
            dataset = await on_thread(lambda: datasets.add(path, name=name))
        return json_response(dataset_row(dataset))

    @router.get(UPLOADS, response_model=None)
    async def all_datasets(request: Request) -> Response:
        query = query_of(request, "after", "limit")
        after = dataset_id(query["after"], param="after") if "after" in query else None
        limit = limit_of(query)
        page = await on_thread(lambda: datasets.list(after=after, limit=limit))
        return json_response(list_of(map(dataset_row, page.data), has_more=page.has_more))

    @router.get(UPLOADS + "/{dataset}", response_model=None)
    async def one(dataset: str, request: Request) -> Response:
        query_of(request)
        return json_response(dataset_row(await on_thread(datasets.get, dataset_id(dataset))))

    @router.delete(UPLOADS + "/{dataset}", response_model=None)
    async def delete(dataset: str, request: Request) -> Response:
        query_of(request)
        await on_thread(datasets.delete, dataset_id(dataset))
        return json_response(deleted_row("dataset", dataset))

    return router
