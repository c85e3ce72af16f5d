"""The routes of adapter management, as far as its parts are there."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.admin.archives import archive_routes
from server.api.admin.chains import chain_routes
from server.api.admin.datasets import dataset_routes
from server.api.admin.stages import stage_routes
from server.api.admin.transfers import transfer_routes
from server.api.parts import Parts


def administration_routes(parts: Parts) -> APIRouter:
    """Stages, chains, data sets and what goes from and to elsewhere."""
    router = APIRouter()
    if parts.stages is not None:
        router.include_router(stage_routes(parts, parts.stages))
    if parts.chains is not None:
        router.include_router(chain_routes(parts, parts.chains))
    if parts.datasets is not None:
        router.include_router(dataset_routes(parts.datasets))
    if parts.transfers is not None:
        router.include_router(transfer_routes(parts, parts.transfers))
    if parts.archives is not None:
        router.include_router(archive_routes(parts, parts.archives))
    return router
