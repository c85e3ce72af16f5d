"""The routes of stages: ask for one, look at it, steer it, follow it."""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from adapters.lineage import Stage
from adapters.states import StageState
from server.api.admin.asked import (
    chain_name,
    flag_of,
    idempotency_of,
    json_response,
    limit_of,
    number_of,
    query_of,
    read_body,
    stage_id,
)
from server.api.admin.events import event_frames, look
from server.api.admin.ports import Stages
from server.api.admin.schema import Nothing, StageBody
from server.api.admin.wire import event_row, list_of, stage_row
from server.api.parts import Parts
from server.api.respond import event_stream
from server.api.scope import request_id_of
from server.core.errors import InvalidRequest

MAX_EVENTS = 1000
"""Events of a list; a stream has no such limit."""

on_thread = anyio.to_thread.run_sync


def stage_routes(parts: Parts, stages: Stages) -> APIRouter:
    """``/admin/stages``."""
    router, name = APIRouter(), base_name(parts)

    def answer(stage: Stage, status: int = 200) -> Response:
        return json_response(stage_row(stage, name), status)

    @router.post("/admin/stages", response_model=None)
    async def add(request: Request) -> Response:
        query_of(request)
        body, payload = await read_body(StageBody, request)

        def work() -> Stage:
            return stages.add(body.asked(), idempotency_of(request, payload))

        return answer(await on_thread(work), 202)

    @router.get("/admin/stages", response_model=None)
    async def all_stages(request: Request) -> Response:
        query = query_of(request, "chain", "status", "after", "limit")
        chain = chain_name(query["chain"]) if "chain" in query else None
        after = stage_id(query["after"], param="after") if "after" in query else None
        state, limit = _state(query.get("status")), limit_of(query)

        def rows() -> Response:
            page = stages.list(chain=chain, state=state, after=after, limit=limit)
            found = [stage_row(stage, name) for stage in page.data]
            return json_response(list_of(found, has_more=page.has_more))

        return await on_thread(rows)

    @router.get("/admin/stages/{stage}", response_model=None)
    async def one(stage: str, request: Request) -> Response:
        query_of(request)
        return answer(await on_thread(stages.get, stage_id(stage)))

    def steer(verb: str, act: Callable[[str], Stage]) -> None:
        @router.post(f"/admin/stages/{{stage}}/{verb}", response_model=None)
        async def steered(stage: str, request: Request) -> Response:
            query_of(request)
            await read_body(Nothing, request)
            return answer(await on_thread(act, stage_id(stage)))

    steer("cancel", stages.cancel)
    steer("pause", stages.pause)
    steer("resume", stages.resume)
    _add_events(router, parts, stages)
    return router


def base_name(parts: Parts) -> str:
    """The served name of the base. Asks the store for all chains: ask once."""
    return parts.catalog.models()[0].id


def _add_events(router: APIRouter, parts: Parts, stages: Stages) -> None:
    @router.get("/admin/stages/{stage}/events", response_model=None)
    async def events(stage: str, request: Request) -> Response:
        query = query_of(request, "after", "limit", "stream")
        after = _after(request, query.get("after"))
        if flag_of(query, "stream", default=True):
            if "limit" in query:
                raise InvalidRequest(
                    "limit has no meaning for a stream; add stream=false.", param="limit"
                )
            return await _streamed(parts, stages, stage_id(stage), after, request)
        limit = limit_of(query, most=MAX_EVENTS)
        name = stage_id(stage)
        found = await on_thread(lambda: stages.events(name, after=after, limit=limit + 1))
        rows = map(event_row, found[:limit])
        return json_response(list_of(rows, has_more=len(found) > limit))


async def _streamed(
    parts: Parts, stages: Stages, stage: str, after: int, request: Request
) -> Response:
    """204 where nothing follows any more: it tells a browser's EventSource to stay away."""
    found = await on_thread(look, stages, stage, after)
    if found.ended and not found.events:
        return Response(status_code=204)
    frames = event_frames(
        stages, stage, after=after, closing=parts.closing, request_id=request_id_of(request.scope)
    )
    return event_stream(frames, parts.limits, {})


def _after(request: Request, asked: str | None) -> int:
    """The last id that the client has seen; a reconnecting one has it in the header."""
    given = request.headers.get("last-event-id")
    if given:
        return number_of(given, "Last-Event-ID")
    return 0 if asked is None else number_of(asked, "after")


def _state(text: str | None) -> StageState | None:
    if text is None:
        return None
    try:
        return StageState(text)
    except ValueError:
        known = ", ".join(state.value for state in StageState)
        raise InvalidRequest(f"status: must be one of {known}.", param="status") from None
