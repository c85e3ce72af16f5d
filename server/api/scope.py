"""What the guards leave in the ASGI scope for those inside them."""

from __future__ import annotations

from starlette.types import Scope

_REQUEST_ID = "chainlora.request_id"


def set_request_id(scope: Scope, request_id: str) -> None:
    """Remember the id of this request."""
    scope[_REQUEST_ID] = request_id


def request_id_of(scope: Scope) -> str:
    """The id that the client reads in ``x-request-id`` and that the log lines carry."""
    return str(scope.get(_REQUEST_ID, ""))
