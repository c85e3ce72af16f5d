"""The routes of fine-tuning jobs: ask for one, look at it, steer it, see what it measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from adapters.lineage import Stage
from server.api.admin.asked import idempotency_of, json_response, limit_of, query_of
from server.api.admin.asked import read_body as read_strictly
from server.api.admin.ports import Stages
from server.api.admin.schema import Nothing
from server.api.admin.stages import base_name
from server.api.admin.wire import list_of
from server.api.files.ports import Files
from server.api.fine_tuning.ask import in_words_of_jobs, new_stage
from server.api.fine_tuning.names import number_of_event, stage_of_job
from server.api.fine_tuning.ports import Jobs
from server.api.fine_tuning.schema import JobBody
from server.api.fine_tuning.wire import checkpoint_row, job_event_row, job_row
from server.api.parts import Parts
from server.api.reading import json_response as answered
from server.api.reading import read_body
from server.api.strict_json import parse_object
from server.api.wire import Body
from server.core.errors import InvalidRequest

JOBS = "/v1/fine_tuning/jobs"
MAX_EVENTS = 1000

_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
_MOST_PAIRS = 16

on_thread = anyio.to_thread.run_sync


@dataclass(frozen=True, slots=True)
class Behind:
    """What the routes work with; ``base`` is the served name."""

    parts: Parts
    stages: Stages
    files: Files
    jobs: Jobs
    base: str

    def row(self, stage: Stage) -> Body:
        """The job object of a stage, as of now."""
        return job_row(stage, self.base, self.parts.clock())


def job_routes(parts: Parts, stages: Stages, files: Files, jobs: Jobs) -> APIRouter:
    """``/v1/fine_tuning/jobs``."""
    router = APIRouter()
    behind = Behind(parts, stages, files, jobs, base_name(parts))
    _add_making(router, behind)
    _add_looking(router, behind)
    _add_measures(router, behind)
    return router


def _add_making(router: APIRouter, behind: Behind) -> None:
    stages = behind.stages

    @router.post(JOBS, response_model=None)
    async def create(request: Request) -> Response:
        query_of(request)
        asked, headers = await read_body(JobBody, request, behind.parts)
        payload = parse_object(await request.body())

        def work() -> Body:
            parts = behind.parts
            with in_words_of_jobs(asked):
                new = new_stage(asked, parts, behind.files, behind.jobs, behind.base)
                return behind.row(stages.add(new, idempotency_of(request, payload)))

        return answered(await on_thread(work), headers)

    def steer(verb: str, act: Callable[[str], Stage]) -> None:
        @router.post(f"{JOBS}/{{job}}/{verb}", response_model=None)
        async def steered(job: str, request: Request) -> Response:
            query_of(request)
            await read_strictly(Nothing, request)
            stage = stage_of_job(job)

            def work() -> Body:
                behind.jobs.get(stage)
                return behind.row(act(stage))

            return json_response(await on_thread(work))

    steer("cancel", stages.cancel)
    steer("pause", stages.pause)
    steer("resume", stages.resume)


def _add_looking(router: APIRouter, behind: Behind) -> None:
    jobs = behind.jobs

    @router.get(JOBS, response_model=None)
    async def all_jobs(request: Request) -> Response:
        metadata, names = _metadata_of(request)
        query = query_of(request, "after", "limit", *names)
        after = stage_of_job(query["after"], param="after") if "after" in query else None
        limit = limit_of(query)

        def work() -> Body:
            page = jobs.list(metadata=metadata, after=after, limit=limit)
            rows = [behind.row(behind.stages.get(stage.id)) for stage in page.data]
            return list_of(rows, has_more=page.has_more)

        return json_response(await on_thread(work))

    @router.get(JOBS + "/{job}", response_model=None)
    async def one(job: str, request: Request) -> Response:
        query_of(request)
        stage = stage_of_job(job)

        def work() -> Body:
            jobs.get(stage)
            return behind.row(behind.stages.get(stage))

        return json_response(await on_thread(work))


def _add_measures(router: APIRouter, behind: Behind) -> None:
    jobs = behind.jobs

    @router.get(JOBS + "/{job}/events", response_model=None)
    async def events(job: str, request: Request) -> Response:
        query = query_of(request, "after", "limit")
        before = number_of_event(query["after"]) if "after" in query else None
        stage, limit = stage_of_job(job), limit_of(query, most=MAX_EVENTS)
        page = await on_thread(lambda: jobs.events(stage, before=before, limit=limit))
        return json_response(list_of(map(job_event_row, page.data), has_more=page.has_more))

    @router.get(JOBS + "/{job}/checkpoints", response_model=None)
    async def checkpoints(job: str, request: Request) -> Response:
        query = query_of(request, "after", "limit")
        limit, job_stage = limit_of(query, default=10), stage_of_job(job)
        found = await on_thread(jobs.checkpoints, job_stage)
        rows = [checkpoint_row(stage, job_stage, behind.base) for stage in found]
        page, has_more = _page(rows, query.get("after"), limit)
        ends = {
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }
        return json_response({**list_of(page, has_more=has_more), **ends})


def _page(rows: list[Body], after: str | None, limit: int) -> tuple[list[Body], bool]:
    """``limit`` checkpoints after the one of an id, and whether there are more."""
    ids = [row["id"] for row in rows]
    if after is not None and after not in ids:
        raise InvalidRequest("after: must be the id of a checkpoint.", param="after")
    rest = rows if after is None else rows[ids.index(after) + 1 :]
    return rest[:limit], len(rest) > limit


def _metadata_of(request: Request) -> tuple[dict[str, str] | None, list[str]]:
    """The pairs that jobs must have, None for jobs without any; and the parameters' names."""
    query = request.query_params
    names = [name for name in query if name == "metadata" or _METADATA.fullmatch(name)]
    if "metadata" in names:
        if query["metadata"] != "null" or len(names) > 1:
            raise InvalidRequest(
                "metadata: must be pairs as metadata[key]=value, or metadata=null alone.",
                param="metadata",
            )
        return None, names
    if len(names) > _MOST_PAIRS:
        raise InvalidRequest(f"metadata: at most {_MOST_PAIRS} pairs.", param="metadata")
    return {name[len("metadata[") : -1]: query[name] for name in names}, names
