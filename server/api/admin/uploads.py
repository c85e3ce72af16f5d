"""A file in a request's body, straight to disk: memory does not grow with the file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import anyio.to_thread
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from server.core.errors import InvalidRequest, UnsupportedMediaType

_PIECE = 256 * 1024
"""Bytes that are gathered before a thread writes them."""
_MAX_BOUNDARY = 70
"""RFC 2046."""
_MAX_NAME = 255


async def save_upload(request: Request, path: Path) -> str | None:
    """Write the body's one file to ``path`` and return the name that the client gave it.

    The body is the file itself (``application/jsonl``) or a form with the one part ``file``.
    Raises InvalidRequest for another form or a broken one, UnsupportedMediaType for another body,
    OSError where the disk is full. What was written until then is the caller's to remove.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    with await anyio.to_thread.run_sync(path.open, "wb") as file:
        if media_type == b"application/jsonl":
            await _drain(request.stream(), lambda piece: _write(file, piece))
            return None
        if media_type != b"multipart/form-data":
            raise UnsupportedMediaType(
                "An upload is multipart/form-data with the file in the part 'file', or the file "
                "itself as application/jsonl."
            )
        form = _Form(options.get(b"boundary", b""), {"file": file})
        await _drain(request.stream(), form.feed)
        return form.finish()


async def save_form(request: Request, sinks: Mapping[str, BinaryIO]) -> frozenset[str]:
    """``save_named_form`` where nobody asks for the file's name."""
    seen, _ = await save_named_form(request, sinks)
    return seen


async def save_named_form(
    request: Request, sinks: Mapping[str, BinaryIO]
) -> tuple[frozenset[str], str | None]:
    """Write each part of the body's form to its sink: the names of those that came, and the
    file's, which the client gave it.

    The part ``file`` must be there. Raises as ``save_upload``.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data":
        raise UnsupportedMediaType(
            f"The body is multipart/form-data with the parts {', '.join(sinks)}."
        )
    form = _Form(options.get(b"boundary", b""), sinks)
    await _drain(request.stream(), form.feed)
    name = form.finish()
    return form.seen, name


class Bounded(io.BytesIO):
    """A sink for a small part: ``most`` bytes in memory; more raise InvalidRequest."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__()
        self._name, self._most = name, most

    def write(self, piece: Any) -> int:
        """Some more of the part."""
        if self.tell() + len(piece) > self._most:
            raise InvalidRequest(
                f"{self._name}: the part has more than {self._most} bytes.", param=self._name
            )
        return super().write(piece)


async def _drain(pieces: AsyncIterator[bytes], consume: Callable[[bytes], None]) -> None:
    gathered = bytearray()
    async for piece in pieces:
        gathered += piece
        if len(gathered) >= _PIECE:
            await anyio.to_thread.run_sync(consume, bytes(gathered))
            gathered.clear()
    await anyio.to_thread.run_sync(consume, bytes(gathered))


def _write(file: BinaryIO, piece: bytes) -> None:
    file.write(piece)
    file.flush()


class _Form:
    """A form whose parts each have a sink; ``file`` must be there."""

    def __init__(self, boundary: bytes, sinks: Mapping[str, BinaryIO]) -> None:
        if not 0 < len(boundary) <= _MAX_BOUNDARY:
            raise InvalidRequest("The Content-Type of the form has no usable boundary.")
        self._sinks = sinks
        self._seen: set[str] = set()
        self._field, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name: str | None = None
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._gather_field,
                "on_header_value": self._gather_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": self._take,
                "on_end": self._end,
            },
        )

    def feed(self, piece: bytes) -> None:
        """Some more of the body."""
        try:
            self._parser.write(piece)
        except FormParserError:
            raise InvalidRequest("The body is not the multipart form that it says it is.") from None

    def finish(self) -> str | None:
        """The file's name; raises InvalidRequest where form or file are missing an end."""
        if not self._ended:
            raise InvalidRequest("The form ends early: its last boundary is missing.")
        if "file" not in self._seen:
            raise InvalidRequest("The form has no part 'file'.", param="file")
        return self._name

    @property
    def seen(self) -> frozenset[str]:
        """The parts that have come."""
        return frozenset(self._seen)

    def _gather_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _gather_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._disposition = b""
        field = options.get(b"name", b"").decode("utf-8", "replace")[:64]
        if field not in self._sinks:
            known = "'file' alone" if len(self._sinks) == 1 else ", ".join(self._sinks)
            raise InvalidRequest(
                f"The form has a part {field!a}; it takes {known}.", param=field or None
            )
        if field in self._seen:
            what = "files" if field == "file" else f"parts {field!a}"
            raise InvalidRequest(f"The form has two {what}; send one at a time.", param=field)
        self._seen.add(field)
        self._sink = self._sinks[field]
        if field == "file":
            self._name = _sane_name(options.get(b"filename"))

    def _take(self, data: bytes, start: int, end: int) -> None:
        _write(self._sink, data[start:end])

    def _end(self) -> None:
        self._ended = True


def _sane_name(given: bytes | None) -> str | None:
    """The last part of a file's name, which is shown and never opened."""
    text = (given or b"").decode("utf-8", "replace").replace("\\", "/")
    return clean_name(PurePosixPath(text).name)


def clean_name(text: str) -> str | None:
    """``text`` without what cannot be printed, at most 255 characters; None for nothing."""
    return "".join(filter(str.isprintable, text))[:_MAX_NAME] or None


@contextlib.contextmanager
def removed_on_error(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside, ``path`` is gone."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
