"""Errors as responses, the framework's own among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from server.api.anthropic.errors import anthropic_error, speaks_anthropic
from server.api.scope import request_id_of
from server.api.wire import encode
from server.core.errors import InvalidRequest, MethodNotAllowed, RouteNotFound, ServeError
from server.errors import to_body

log = logging.getLogger(__name__)


def error_response(
    error: Exception, scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """The response for ``error``, in the words of the API that was asked.

    One that is a defect of ours is logged with all that it says.
    """
    request_id = request_id_of(scope)
    body = to_body(error, request_id=request_id)
    if body.status == 500:
        log.error("%s: the request failed", request_id, exc_info=error)
    anthropic = speaks_anthropic(scope)
    return Response(
        encode(anthropic_error(body, request_id) if anthropic else {**body.content}),
        body.status,
        {**body.headers, **(headers or {})},
        media_type="application/json",
    )


async def framework_error(request: Request, error: Exception) -> Response:
    """No route, or not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    return error_response(_named(request, error), request.scope, error.headers)


async def invalid_parameter(request: Request, error: Exception) -> Response:
    """A path or query parameter that does not fit; its value is not repeated."""
    if not isinstance(error, RequestValidationError):
        raise error
    fault = error.errors()[0]
    name = str(fault["loc"][-1])
    return error_response(InvalidRequest(f"{name}: {fault['msg']}.", param=name), request.scope)


def _named(request: Request, error: HTTPException) -> ServeError:
    path = request.url.path[:100]
    if error.status_code == 404:
        return RouteNotFound(f"There is no route {path!a}.")
    if error.status_code == 405:
        return MethodNotAllowed(f"The route {path!a} does not take {request.method[:16]!a}.")
    return InvalidRequest(str(error.detail))
