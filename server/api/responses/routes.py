"""``/v1/responses``: make, retrieve, cancel and delete a response, and list what went in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from server.api.parts import Parts
from server.api.reading import json_response, read_body
from server.api.responses.ask import check_together
from server.api.responses.desk import ResponseDesk
from server.api.schema.responses import PromptRequest, ResponsesRequest
from server.api.telling import ToldResponse
from server.api.wire import Body
from server.core.errors import InvalidRequest, UnsupportedField

ROUTE = "/v1/responses"
_OF_STREAMS = ("include_obfuscation", "starting_after", "stream")


def response_routes(parts: Parts) -> APIRouter:
    """Responses, kept in memory."""
    router = APIRouter()
    desk = ResponseDesk(parts)

    @router.post(ROUTE, response_model=None)
    async def create(request: Request) -> Response:
        asked, headers = await read_body(ResponsesRequest, request, parts)
        check_together(asked)
        ask, telling = desk.take(asked)
        if not asked.background:
            return ToldResponse(parts, ask, telling, stream=bool(asked.stream), headers=headers)
        await desk.run_in_background(ask, telling)
        return json_response(telling.body(), headers)

    @router.post(f"{ROUTE}/input_tokens", response_model=None)
    async def input_tokens(request: Request) -> Response:
        asked, headers = await read_body(PromptRequest, request, parts)
        encode = desk.prompt(asked)
        with parts.catalog.pin(asked.model):
            prompt = await anyio.to_thread.run_sync(encode, parts.tokenizer, abandon_on_cancel=True)
        counted = {"object": "response.input_tokens", "input_tokens": len(prompt.tokens)}
        return json_response(counted, headers)

    @router.get(f"{ROUTE}/{{response_id}}", response_model=None)
    async def retrieve(response_id: str, request: Request) -> Response:
        for name in _OF_STREAMS:
            if request.query_params.get(name, "false") != "false":
                raise UnsupportedField(
                    f"{name}: a response that is kept cannot be streamed here; leave it out.",
                    param=name,
                )
        _refuse_include(request)
        return _json(desk.body(response_id))

    @router.delete(f"{ROUTE}/{{response_id}}", response_model=None)
    async def delete(response_id: str) -> Response:
        desk.delete(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    @router.post(f"{ROUTE}/{{response_id}}/cancel", response_model=None)
    async def cancel(response_id: str) -> Response:
        return _json(desk.cancel(response_id))

    @router.get(f"{ROUTE}/{{response_id}}/input_items", response_model=None)
    async def input_items(
        response_id: str,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Response:
        _refuse_include(request)
        items = desk.items(response_id)
        oldest_first = json.loads(items) if isinstance(items, bytes) else items
        ordered = oldest_first if order == "asc" else oldest_first[::-1]
        return json_response(_page(ordered, limit, after))

    return router


def _page(items: Sequence[Body], limit: int, after: str | None) -> Body:
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidRequest(
                f"after: the response has no input item {after[:100]!a}.", param="after"
            )
        start = places[-1] + 1
    page = list(items[start : start + limit])
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }


def _refuse_include(request: Request) -> None:
    if any(name.removesuffix("[]") == "include" for name in request.query_params):
        raise UnsupportedField(
            "include: ask for it in the request that makes the response; it is kept with it.",
            param="include",
        )


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
