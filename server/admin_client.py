"""The admin routes of a server, for programs that have the standard library alone."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from server.address import Address, NoAnswer

Json = dict[str, Any]

_PIECE = 1 << 18


class AdminError(Exception):
    """The server refused; ``str()`` is its own message, ``status`` and ``code`` are for programs.

    Without a server's answer both are None.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Unreachable(AdminError):
    """No answer, or one that breaks off: it may be there again in a while."""


class AdminClient:
    """One server. Every method raises AdminError where it refuses, Unreachable where it is away."""

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        """``url`` is the server's root, with or without ``/v1``; ``timeout_s`` bounds a silence.

        Raises AdminError for anything but an http(s) URL.
        """
        try:
            self._address = Address(url)
        except ValueError as error:
            raise AdminError(str(error)) from None
        self._timeout_s = timeout_s

    def get(self, *path: str, query: Mapping[str, object] | None = None) -> Json:
        """What ``/admin/…`` shows; query values that are None are left out."""
        return self._call("GET", path, query=query)

    def post(
        self, *path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Json:
        """What ``/admin/…`` answers to ``body``."""
        return self._call("POST", path, body=body, headers=headers)

    def put(self, *path: str, body: Mapping[str, Any]) -> Json:
        """As ``post``."""
        return self._call("PUT", path, body=body)

    def delete(self, *path: str) -> Json:
        """What is left."""
        return self._call("DELETE", path)

    def upload(self, path: Path) -> Json:
        """Send a JSONL file piece by piece; the data set that it is now."""
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                headers = {"Content-Type": "application/jsonl", "Content-Length": str(size)}
                target = _target(("datasets",), {"name": path.name})
                with self._open("POST", target, file, headers) as response:
                    return _object(response)
        except OSError as error:
            raise AdminError(f"Cannot read {path}: {error.strerror or error}.") from None

    def send_form(
        self, *path: str, files: Mapping[str, Path], fields: Mapping[str, object]
    ) -> Json:
        """Post files, piece by piece, and fields as a form; what ``/admin/…`` answers."""
        boundary = secrets.token_hex(16)
        try:
            with Form(boundary, files, fields) as form:
                headers = {
                    "Content-Type": f"multipart/form-data; boundary={boundary}",
                    "Content-Length": str(form.size),
                }
                with self._open("POST", _target(path, None), form, headers) as response:
                    return _object(response)
        except OSError as error:
            raise AdminError(f"Cannot read {error.filename}: {error.strerror or error}.") from None

    @contextmanager
    def download(
        self, *path: str, query: Mapping[str, object]
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer's bytes and headers, to be read meanwhile; it may break off before its end."""
        with self._open("GET", _target(path, query), None, {}) as response:
            yield response

    def events(self, stage: str, *, after: int = 0) -> Iterator[Json]:
        """The stage's events with ids above ``after``, until the stream ends.

        It does at the stage's end, when the server stops, and where the connection breaks: only
        the stage itself tells which. Raises Unreachable where the break can be seen.
        """
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        target = _target(("stages", stage, "events"), None)
        with self._open("GET", target, None, headers) as response:
            for name, data in parse_events(response):
                event = _parsed(data)
                if name == "error":
                    raise _refusal(event, None)
                yield event

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        sent = {**(headers or {}), **({} if data is None else {"Content-Type": "application/json"})}
        with self._open(method, _target(path, query), data, sent) as response:
            return _object(response)

    @contextmanager
    def _open(
        self,
        method: str,
        target: str,
        body: bytes | BinaryIO | Iterable[bytes] | None,
        headers: Mapping[str, str],
    ) -> Iterator[http.client.HTTPResponse]:
        try:
            with self._address.connected(self._timeout_s) as connection:
                # Refused before all was sent: the answer is there already.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, self._address.root + target, body, dict(headers))
                response = connection.getresponse()
                if not 200 <= response.status < 300:
                    raise _refused(response)
                yield response
        except NoAnswer as error:
            raise Unreachable(str(error)) from None


class Form:
    """A multipart form whose files are read as it is sent; the context closes them."""

    def __init__(
        self, boundary: str, files: Mapping[str, Path], fields: Mapping[str, object]
    ) -> None:
        """Open every file; raises OSError."""
        self._end = f"--{boundary}--\r\n".encode()
        self._fields = [
            _part_head(boundary, name, None) + f"{value}\r\n".encode()
            for name, value in fields.items()
        ]
        self._heads = [_part_head(boundary, name, path.name) for name, path in files.items()]
        with ExitStack() as opened:
            self._files = [opened.enter_context(path.open("rb")) for path in files.values()]
            sizes = [path.stat().st_size for path in files.values()]
            self._opened = opened.pop_all()
        around = sum(map(len, self._fields + self._heads)) + 2 * len(sizes) + len(self._end)
        self.size = sum(sizes) + around

    def __enter__(self) -> Form:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._fields
        for head, file in zip(self._heads, self._files, strict=True):
            yield head
            while piece := file.read(_PIECE):
                yield piece
            yield b"\r\n"
        yield self._end


def _part_head(boundary: str, name: str, file: str | None) -> bytes:
    safe = "".join(each for each in file or "" if each.isprintable() and each not in '"\\')
    filename = "" if file is None else f'; filename="{safe}"'
    line = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
    return line.encode("utf-8", "replace")


def parse_events(lines: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and data of each event of a stream; one that is cut off is left out."""
    name, data = "", b""
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data = data + b"\n" + value if data else value
        elif not field and not value and line.endswith(b"\n"):
            if data:
                yield name, data
            name, data = "", b""


def _target(path: tuple[str, ...], query: Mapping[str, object] | None) -> str:
    steps = "/".join(quote(step, safe="") for step in ("admin", *path))
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"/{steps}" + (f"?{urlencode(given, errors='replace')}" if given else "")


def _object(response: http.client.HTTPResponse) -> Json:
    return _parsed(response.read())


def _parsed(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise AdminError(
            f"The server's answer is no JSON object: {data[:80]!r}. Does --url name chainlora?"
        )
    return value


def _refused(response: http.client.HTTPResponse) -> AdminError:
    body = response.read(2**20)
    try:
        return _refusal(json.loads(body), response.status)
    except ValueError:
        text = body[:200].decode(errors="replace")
        return AdminError(
            f"The server refused: {text} (HTTP {response.status})", status=response.status
        )


def _refusal(body: object, status: int | None) -> AdminError:
    match body:
        case {"error": {"message": str(message), "code": str(code)}}:
            return AdminError(message, status=status, code=code)
        case _:
            shown = json.dumps(body)[:200]
            return AdminError(f"The server refused: {shown} (HTTP {status})", status=status)
