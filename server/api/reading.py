"""A request's JSON body as the object that a route wants, and a JSON body as its response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from server.api.parts import Parts
from server.api.schema.fields import Schema
from server.api.schema.read import ignored_header, read_request
from server.api.wire import Body, encode

IGNORED = "x-chainlora-ignored"
"""The response header that names request fields without effect."""

_LONG_BODY = 64 * 1024
"""Bytes from which on a body is read on a thread, beside the event loop."""

Read = TypeVar("Read", bound=Schema)


async def read_body(
    schema: type[Read], request: Request, parts: Parts
) -> tuple[Read, dict[str, str]]:
    """The request's body, and the headers that its answer owes to it.

    Raises what ``read_request`` raises.
    """
    body = await request.body()
    refuse = parts.limits.refuse_unknown_fields

    def read() -> tuple[Read, tuple[str, ...]]:
        return read_request(schema, body, refuse_unknown=refuse)

    asked, ignored = read() if len(body) < _LONG_BODY else await anyio.to_thread.run_sync(read)
    return asked, {IGNORED: ignored_header(ignored)} if ignored else {}


def json_response(body: Body, headers: Mapping[str, str] | None = None) -> Response:
    """``body``, with status 200."""
    return Response(encode(body), media_type="application/json", headers=headers)
