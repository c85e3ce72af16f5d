"""The routes of chains: their lineage, and what moves a head or deletes a revision."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from adapters.lineage import Chain
from server.api.admin.asked import (
    chain_name,
    json_response,
    label_name,
    limit_of,
    query_of,
    read_body,
    revision_name,
)
from server.api.admin.ports import Chains
from server.api.admin.schema import ForkBody, LabelBody, PruneBody, RollbackBody
from server.api.admin.stages import base_name
from server.api.admin.wire import chain_row, deleted_row, list_of, stage_row
from server.api.parts import Parts

_PATH = "/admin/chains/{chain}"
on_thread = anyio.to_thread.run_sync


def chain_routes(parts: Parts, chains: Chains) -> APIRouter:
    """``/admin/chains``."""
    router, base = APIRouter(), base_name(parts)

    @router.get("/admin/chains", response_model=None)
    async def all_chains(request: Request) -> Response:
        query = query_of(request, "after", "limit")
        after, limit = query.get("after", ""), limit_of(query)
        if after:
            chain_name(after)
        found = [chain for chain in await on_thread(chains.list) if chain.name > after]
        rows = [chain_row(chain, base) for chain in found[:limit]]
        return json_response(list_of(rows, has_more=len(found) > limit))

    @router.get(_PATH, response_model=None)
    async def one(chain: str, request: Request) -> Response:
        query_of(request)
        found, stages = await on_thread(chains.get, chain_name(chain))
        rows = [stage_row(stage, base) for stage in stages]
        return json_response({**chain_row(found, base), "stages": rows})

    @router.delete(_PATH, response_model=None)
    async def delete(chain: str, request: Request) -> Response:
        query_of(request)
        await on_thread(chains.delete, chain_name(chain))
        return json_response(deleted_row("chain", chain))

    @router.delete(_PATH + "/revisions/{revision}", response_model=None)
    async def delete_revision(chain: str, revision: str, request: Request) -> Response:
        query_of(request)
        name = revision_name(revision)
        stage = await on_thread(chains.delete_revision, chain_name(chain), name)
        return json_response(deleted_row("revision", stage.revision))

    _add_moves(router, base, chains)
    return router


def _add_moves(router: APIRouter, base: str, chains: Chains) -> None:
    def answer(chain: Chain) -> Response:
        return json_response(chain_row(chain, base))

    @router.post(_PATH + "/rollback", response_model=None)
    async def rollback(chain: str, request: Request) -> Response:
        query_of(request)
        body, _ = await read_body(RollbackBody, request)
        return answer(await on_thread(chains.rollback, chain_name(chain), body.revision))

    @router.post(_PATH + "/fork", response_model=None)
    async def fork(chain: str, request: Request) -> Response:
        query_of(request)
        body, _ = await read_body(ForkBody, request)
        return answer(await on_thread(chains.fork, chain_name(chain), body.name, body.revision))

    @router.post(_PATH + "/prune", response_model=None)
    async def prune(chain: str, request: Request) -> Response:
        query_of(request)
        body, _ = await read_body(PruneBody, request)
        name = chain_name(chain)
        stages = await on_thread(lambda: chains.prune(name, keep_last=body.keep_last))
        rows = [deleted_row("revision", stage.revision) for stage in stages]
        return json_response(list_of(rows))

    @router.put(_PATH + "/labels/{label}", response_model=None)
    async def set_label(chain: str, label: str, request: Request) -> Response:
        query_of(request)
        body, _ = await read_body(LabelBody, request)
        name, label = chain_name(chain), label_name(label)
        return answer(await on_thread(chains.set_label, name, label, body.revision))

    @router.delete(_PATH + "/labels/{label}", response_model=None)
    async def remove_label(chain: str, label: str, request: Request) -> Response:
        query_of(request)
        name, label = chain_name(chain), label_name(label)
        return answer(await on_thread(chains.remove_label, name, label))
