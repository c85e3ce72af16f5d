"""What every request passes before a route sees it. Pure ASGI; ``create_api`` shows the order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.anthropic.errors import speaks_anthropic
from server.api.failures import error_response
from server.api.scope import request_id_of, set_request_id
from server.core.errors import (
    DeadlineExceeded,
    ForbiddenHost,
    RequestTooLarge,
    UnsupportedMediaType,
)

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_BODY_TYPES = frozenset({"application/json", "application/jsonl", "multipart/form-data"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#]+)(:[0-9]{1,5})?")
_LOOPBACK_NAME = "localhost"
_FOREIGN_SITES = frozenset({"cross-site", "same-site"})


class RequestIds:
    """Every response carries ``x-request-id``: the client's, where it is sane, else a new one.

    Anthropic calls the header ``request-id``; on its routes both names are there.
    """

    def __init__(self, app: ASGIApp, new_id: Callable[[], str]) -> None:
        self._app, self._new_id = app, new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the id, then add it to what is sent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{self._new_id()}"
        set_request_id(scope, request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
                if speaks_anthropic(scope):
                    MutableHeaders(scope=message)["request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class Errors:
    """Whatever is raised inside becomes an error response; nothing else about it gets out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for whatever is raised inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            log.info("%s: the client is gone", request_id_of(scope))
        except SendTimeoutError:
            log.warning("%s: the client reads too slowly; cut", request_id_of(scope))
        except Exception as error:  # noqa: BLE001 - the outermost place that can answer
            close = isinstance(error, DeadlineExceeded)  # its body may still be trickling in
            response = error_response(error, scope, {"connection": "close"} if close else None)
            if not started:  # else returning without the end makes uvicorn close the connection
                await response(scope, receive, send)


class Hosts:
    """Only requests meant for this machine: DNS rebinding and foreign web pages end here.

    The Host header must name loopback or one of ``allowed``. A browser says in Origin which page
    sends a request, and a page of another host may send none that changes anything: a form can
    post multipart/form-data anywhere without asking first. Where Origin was taken out on the way,
    Sec-Fetch-Site, which no page can set, still says that it was a page of elsewhere.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app, self._allowed = app, frozenset({_LOOPBACK_NAME, *allowed})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ForbiddenHost."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            hosts = headers.getlist("host")
            if len(hosts) != 1 or not self._is_ours(hosts[0]):
                raise ForbiddenHost(
                    "This server does not answer for the host in the Host header. Use localhost or "
                    "127.0.0.1, or start the server with --allowed-hosts NAME."
                )
            origin = headers.get("origin")
            writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
            foreign = (
                headers.get("sec-fetch-site") in _FOREIGN_SITES
                if origin is None
                else not self._is_ours(_host_of(origin))
            )
            if writes and foreign:
                raise ForbiddenHost(
                    "A web page of another host sent this request (see its Origin header). If it "
                    "may, start the server with --allowed-hosts NAME."
                )
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        try:
            return name in self._allowed or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


class MediaTypes:
    """A body must say that it is JSON, JSONL or multipart; a web page cannot send JSON unasked.

    A request without a body needs no word of it: some clients cancel so. Of a foreign page,
    ``Hosts`` lets no such request pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises UnsupportedMediaType."""
        if scope["type"] == "http" and scope["method"] in _BODY_METHODS:
            headers = Headers(scope=scope)
            if "content-type" not in headers and not _has_body(headers):
                await self._app(scope, receive, send)
                return
            given = headers.get("content-type", "").partition(";")[0].strip().lower()
            if given not in _BODY_TYPES:
                raise UnsupportedMediaType(
                    "The body must be application/json (or multipart/form-data or "
                    "application/jsonl for files); say so in the Content-Type header."
                )
            if headers.get("content-encoding", "identity").lower() != "identity":
                raise UnsupportedMediaType("The body must not be compressed.")
        await self._app(scope, receive, send)


def _has_body(headers: Headers) -> bool:
    """By what HTTP/1.1 says of one (RFC 9112, section 6.3)."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


@dataclass(frozen=True, slots=True)
class Upload:
    """The limits of a route that takes files: bytes, and seconds for the whole body."""

    max_bytes: int
    total_s: float


class BodyLimits:
    """A body is at most ``max_bytes`` long and arrives within ``timeout_s``.

    On the paths in ``uploads`` a POST has limits of its own, and ``timeout_s`` bounds each silence;
    a step of such a path that begins with a brace stands for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        timeout_s: float,
        uploads: Mapping[str, Upload] | None = None,
    ) -> None:
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s
        self._uploads = [(path.split("/"), each) for path, each in (uploads or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises RequestTooLarge at once where the length is announced, else on the way."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = self._upload_at(scope["path"]) if scope["method"] == "POST" else None
        max_bytes = self._max_bytes if upload is None else upload.max_bytes
        name = "max_body_bytes" if upload is None else "max_upload_bytes"
        _check_announced(Headers(scope=scope).get("content-length", ""), max_bytes, name)
        clock = asyncio.get_running_loop().time
        deadline = clock() + (self._timeout_s if upload is None else upload.total_s)
        received = 0
        complete = False

        async def receive_within_limits() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(min(deadline, clock() + self._timeout_s)):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(upload) from None
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise _too_large(max_bytes, name)
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_within_limits, send)

    def _upload_at(self, path: str) -> Upload | None:
        steps = path.split("/")
        for template, upload in self._uploads:
            if len(steps) == len(template) and all(
                theirs.startswith("{") or theirs == ours
                for theirs, ours in zip(template, steps, strict=True)
            ):
                return upload
        return None

    def _too_slow(self, upload: Upload | None) -> DeadlineExceeded:
        if upload is None:
            return DeadlineExceeded(
                f"The body did not arrive within {self._timeout_s:g} s (body_timeout_s)."
            )
        return DeadlineExceeded(
            f"The upload paused for {self._timeout_s:g} s (body_timeout_s) or took longer than "
            f"{upload.total_s:g} s (request_timeout_s)."
        )


def _check_announced(length: str, max_bytes: int, name: str) -> None:
    """What is no number announces nothing, and the body is counted as it comes."""
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes, name)


def _too_large(max_bytes: int, name: str) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body is larger than {max_bytes} bytes ({name}); send less, or start the server with "
        "a higher limit."
    )
