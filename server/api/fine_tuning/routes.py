"""The routes of fine-tuning, as far as its parts are there."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.files.routes import file_routes
from server.api.fine_tuning.jobs import job_routes
from server.api.fine_tuning.models import deletion_routes
from server.api.parts import Parts


def fine_tuning_routes(parts: Parts) -> APIRouter:
    """Files, jobs, and the deletion of models."""
    router = APIRouter()
    if parts.files is not None:
        router.include_router(file_routes(parts.files))
    if parts.files is not None and parts.stages is not None and parts.jobs is not None:
        router.include_router(job_routes(parts, parts.stages, parts.files, parts.jobs))
    if parts.chains is not None:
        router.include_router(deletion_routes(parts, parts.chains))
    return router
