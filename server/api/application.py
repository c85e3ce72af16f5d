"""The HTTP side, put together: guards around routes around the parts that are given."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from server.api.admin.archives import OPENED
from server.api.admin.datasets import UPLOADS
from server.api.admin.routes import administration_routes
from server.api.admin.stages import base_name
from server.api.admin.transfers import IMPORTS
from server.api.anthropic.routes import anthropic_routes
from server.api.embeddings import embedding_routes
from server.api.failures import framework_error, invalid_parameter
from server.api.files.routes import FILES
from server.api.fine_tuning.routes import fine_tuning_routes
from server.api.guards import BodyLimits, Errors, Hosts, MediaTypes, RequestIds, Upload
from server.api.loads import load_routes
from server.api.openapi.document import Document
from server.api.parts import Parts
from server.api.responses.routes import response_routes
from server.api.routes import admin_routes, generation_routes, health_routes, model_routes
from server.api.tokens import token_routes


def create_api(parts: Parts) -> FastAPI:
    """The ASGI application. It starts and stops nothing: ``server.app`` does that."""
    limits = parts.limits
    api = FastAPI(
        middleware=[  # outermost first
            Middleware(RequestIds, new_id=parts.new_id),
            Middleware(Errors),
            Middleware(Hosts, allowed=limits.allowed_hosts),
            Middleware(MediaTypes),
            Middleware(
                BodyLimits,
                max_bytes=limits.max_body_bytes,
                timeout_s=limits.body_timeout_s,
                uploads=dict.fromkeys(
                    (UPLOADS, IMPORTS, OPENED, FILES),
                    Upload(limits.max_upload_bytes, total_s=limits.request_timeout_s),
                ),
            ),
        ],
        exception_handlers={
            HTTPException: framework_error,
            RequestValidationError: invalid_parameter,
        },
        openapi_url=None,
        redirect_slashes=False,
    )
    routers = [
        routes(parts)
        for routes in (
            generation_routes,
            response_routes,
            anthropic_routes,
            embedding_routes,
            load_routes,
            token_routes,
            model_routes,
            health_routes,
            admin_routes,
            administration_routes,
            fine_tuning_routes,
        )
    ]
    routers.append(Document(routers, base=base_name(parts), version=_version()).routes())
    for router in routers:
        api.include_router(router)
    return api


def _version() -> str:
    try:
        return version("chainlora")
    except PackageNotFoundError:  # it runs from a clone
        return "0"
