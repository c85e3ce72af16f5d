"""Errors as Anthropic's clients read them, on Anthropic's routes."""

from __future__ import annotations

from starlette.types import Scope

from server.api.wire import Body
from server.errors import ErrorBody

MESSAGES = "/v1/messages"

_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    421: "permission_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the path belongs to Anthropic's API, existing or not."""
    path = str(scope["path"])
    return path == MESSAGES or path.startswith(f"{MESSAGES}/")


def anthropic_error(error: ErrorBody, request_id: str) -> Body:
    """``{"type": "error", "error": {"type", "message"}, "request_id"}``.

    The types are those of Anthropic's list of errors, by status; another status below 500 is an
    ``invalid_request_error``, another one from there an ``api_error``.
    """
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _BY_STATUS.get(error.status, other)
    message = error.content["error"]["message"]
    return {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }
