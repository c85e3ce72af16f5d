"""The deletion of a model: of one older revision of a chain."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from adapters.errors import RevisionProtected
from server.api.admin.asked import json_response, query_of
from server.api.admin.ports import Chains
from server.api.admin.stages import base_name
from server.api.admin.wire import deleted_row
from server.api.parts import Parts
from server.api.schema.fields import MODEL_LENGTH
from server.core.errors import UnknownModel
from server.core.names import parse


def deletion_routes(parts: Parts, chains: Chains) -> APIRouter:
    """``DELETE /v1/models/{id}``."""
    router, base = APIRouter(), base_name(parts)

    def delete_model(name: str) -> None:
        parsed = parse(name, served_name=base)
        parts.catalog.model(name)
        if parsed.chain is None:
            raise RevisionProtected(
                f"{base} is the base of every chain and cannot be deleted.", param="model"
            )
        pin = parsed.label if parsed.stage is None else str(parsed.stage)
        if pin is None:
            raise RevisionProtected(
                f"{name} is a chain's head. Delete an older revision by its pin, as {name}@1, or "
                f"the whole chain at /admin/chains/{parsed.chain}.",
                param="model",
            )
        try:
            chains.delete_revision(parsed.chain, pin)
        except RevisionProtected as error:
            error.param = "model"
            raise

    @router.delete("/v1/models/{name:path}", response_model=None)
    async def delete(name: str, request: Request) -> Response:
        query_of(request)
        if len(name) > MODEL_LENGTH:
            raise UnknownModel(f"No model's name is longer than {MODEL_LENGTH}.", param="model")
        await anyio.to_thread.run_sync(delete_model, name)
        return json_response(deleted_row("model", name))

    return router
