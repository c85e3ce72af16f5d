"""What the admin routes read from a request: body, query, path and headers, all of it checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from adapters.errors import ChainNotFound, DatasetNotFound, RevisionNotFound, StageNotFound
from adapters.lineage import Idempotency
from server.api.admin.schema import Body, checked
from server.api.strict_json import JsonObject, parse_object
from server.api.wire import Body as JsonBody
from server.api.wire import encode
from server.core.errors import InvalidRequest
from server.core.names import is_chain_name, is_label

PAGE = 20
"""Rows of a list without ``limit``."""
MAX_PAGE = 100

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_REVISION = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_KEY = re.compile(r"[!-~]{1,255}")
_LONG_BODY = 64 * 1024
"""Bytes from which on a body is read on a thread, beside the event loop."""


async def read_body(schema: type[Body], request: Request) -> tuple[Body, JsonObject]:
    """The body by ``schema``, and as it was sent. No body at all is an empty object.

    Raises InvalidRequest or UnsupportedField with the path of the first field at fault.
    """
    body = await request.body()

    def read() -> tuple[Body, JsonObject]:
        payload = parse_object(body) if body else {}
        return checked(schema, payload), payload

    return read() if len(body) < _LONG_BODY else await anyio.to_thread.run_sync(read)


def query_of(request: Request, *names: str) -> Mapping[str, str]:
    """The query's parameters.

    Raises InvalidRequest for one that is not in ``names`` or stands there twice.
    """
    given = request.query_params.multi_items()
    for name, _ in given:
        if name not in names:
            known = f"it takes {', '.join(names)}" if names else "it takes none"
            raise InvalidRequest(
                f"The route has no query parameter {name[:64]!a}; {known}.", param=name[:64]
            )
    if len({name for name, _ in given}) != len(given):
        raise InvalidRequest("A query parameter occurs twice; give each once.")
    return dict(given)


def limit_of(query: Mapping[str, str], *, default: int = PAGE, most: int = MAX_PAGE) -> int:
    """``limit``, from 1 to ``most``."""
    text = query.get("limit")
    limit = default if text is None else number_of(text, "limit")
    if not 1 <= limit <= most:
        raise InvalidRequest(f"limit: must be from 1 to {most}.", param="limit")
    return limit


def number_of(text: str, name: str) -> int:
    """A whole number that is not negative, as event ids are."""
    if _NUMBER.fullmatch(text) is None:
        raise InvalidRequest(f"{name}: must be a whole number.", param=name)
    return int(text)


def stage_id(text: str, *, param: str | None = None) -> str:
    """An id that a stage may have; raises StageNotFound for any other text."""
    if _ID.fullmatch(text) is None:
        raise StageNotFound(f"There is no stage {text[:64]!a}.", param=param)
    return text


def chain_name(text: str) -> str:
    """A name that a chain may have; raises ChainNotFound for any other text."""
    if not is_chain_name(text):
        raise ChainNotFound(f"There is no chain {text[:64]!a}.", param="chain")
    return text


def new_chain_name(text: str, param: str) -> str:
    """A name for a new chain; raises InvalidRequest for what cannot be one."""
    if not is_chain_name(text):
        raise InvalidRequest(
            "A chain's name is letters, digits, '.', '_' and '-', at most 64, the first a "
            "letter or digit.",
            param=param,
        )
    return text


def flag_of(query: Mapping[str, str], name: str, *, default: bool) -> bool:
    """``true`` or ``false``."""
    text = query.get(name)
    if text not in (None, "true", "false"):
        raise InvalidRequest(f"{name}: must be true or false.", param=name)
    return default if text is None else text == "true"


def revision_name(text: str) -> str:
    """A stage number, revision id or label; raises RevisionNotFound for any other text."""
    if _ID.fullmatch(text) is None:
        raise RevisionNotFound(f"There is no revision {text[:64]!a}.", param="revision")
    return text


def dataset_id(text: str, *, param: str | None = None) -> str:
    """An id that a data set may have; raises DatasetNotFound for any other text."""
    if _ID.fullmatch(text) is None:
        raise DatasetNotFound(f"There is no data set {text[:64]!a}.", param=param)
    return text


def label_name(text: str) -> str:
    """A name that a label may have; raises InvalidRequest for any other text."""
    if not is_label(text) or _REVISION.fullmatch(text) is not None:
        raise InvalidRequest(
            "A label is letters, digits, '.', '_' and '-', at most 64, the first a letter, and it "
            "does not look like a revision id.",
            param="label",
        )
    return text


def idempotency_of(request: Request, payload: JsonObject) -> Idempotency | None:
    """The client's key for this route, with a digest of what the body says."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or _KEY.fullmatch(keys[0]) is None:
        raise InvalidRequest(
            "The header Idempotency-Key must be one value of 1 to 255 visible ASCII characters.",
            param="Idempotency-Key",
        )
    text = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    route = f"{request.method} {request.url.path}"
    return Idempotency(route=route, key=keys[0], digest=hashlib.sha256(text).hexdigest())


def json_response(body: JsonBody, status: int = 200) -> Response:
    """``body`` as a response."""
    return Response(encode(body), status, media_type="application/json")
