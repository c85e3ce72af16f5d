"""A request's texts as an HTTP response, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.generation import Ask, admitted
from server.api.parts import HttpLimits, Parts
from server.api.rows import End, Reply
from server.api.scope import request_id_of
from server.api.transcript import Piece
from server.api.wire import Answer, Body, Shape, encode
from server.core.errors import ShuttingDown
from server.errors import to_body

log = logging.getLogger(__name__)

_PING_S = 15.0
_FAREWELL_S = 5.0
"""How long a stream gets for its last chunks once the engine has ended its row."""

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client has closed its connection; nobody reads an answer."""


class GenerationResponse(Response):
    """Runs ``ask`` when it is sent. The revision is pinned, and the rows alive, only meanwhile.

    What goes wrong before the first byte is raised, so that it gets its own status also where a
    stream was asked for: nothing is sent before the first event of a row is there.
    """

    def __init__(
        self,
        parts: Parts,
        ask: Ask,
        shape: Shape,
        *,
        stream: bool,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._parts, self._ask, self._shape = parts, ask, shape
        self._stream, self._extra_headers = stream, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, run and answer; whatever happens, the rows end and the pin is given back."""
        try:
            async with admitted(self._parts, self._ask) as reply:
                respond = self._streamed if self._stream else self._whole
                response = await respond(scope, receive, reply)
                await response(scope, receive, send)
        except ClientGone:
            log.info("%s: the client is gone", request_id_of(scope))

    async def _whole(self, scope: Scope, receive: Receive, reply: Reply) -> Response:  # noqa: ARG002
        answers = await unless_disconnected(receive, lambda: _collect(reply))
        return Response(
            encode(self._shape.whole(answers)),
            media_type="application/json",
            headers=self._extra_headers,
        )

    async def _streamed(self, scope: Scope, receive: Receive, reply: Reply) -> Response:
        head = await unless_disconnected(receive, lambda: anext(reply))
        return event_stream(
            _frames(self._shape, head, reply, request_id_of(scope)),
            self._parts.limits,
            self._extra_headers,
        )


def event_stream(
    frames: AsyncIterator[bytes],
    limits: HttpLimits,
    headers: Mapping[str, str],
    ping: Callable[[], ServerSentEvent] | None = None,
) -> Response:
    """``frames`` as server-sent events; ``ping`` makes what is sent where there is nothing to say,
    a comment without it.

    The engine ends the rows when the grace of a shutdown is over, and each stream then ends by
    itself; sse-starlette's own grace is longer, and cuts only what hangs.
    """
    return EventSourceResponse(
        frames,
        headers=headers,
        sep="\n",
        ping=_PING_S,
        ping_message_factory=ping,
        send_timeout=limits.send_timeout_s,
        shutdown_grace_period=limits.shutdown_grace_s + _FAREWELL_S,
    )


async def _collect(reply: Reply) -> list[Answer]:
    pieces: dict[int, list[Piece]] = {}
    answers: dict[int, Answer] = {}
    async for item in reply:
        if isinstance(item, Piece):
            pieces.setdefault(item.index, []).append(item)
            continue
        if item.cut:
            raise ShuttingDown(
                "The server is shutting down and had to stop this request; send it again."
            )
        answers[item.index] = Answer(tuple(pieces.pop(item.index, ())), item)
    return [answers[index] for index in sorted(answers)]


async def _frames(
    shape: Shape, head: Piece | End, reply: Reply, request_id: str
) -> AsyncIterator[bytes]:
    """Chunks, whatever happens closed by ``[DONE]``; a failure is one error object before it."""
    ends: list[End] = []
    try:
        for first in shape.first():
            yield _frame(first)
        for chunk in _chunks(shape, head, ends):
            yield _frame(chunk)
        async for item in reply:
            for chunk in _chunks(shape, item, ends):
                yield _frame(chunk)
        usage = shape.usage(ends)
        if usage is not None:
            yield _frame(usage)
    except Exception as error:  # the status is sent: only the stream can tell
        body = to_body(error, request_id=request_id)
        if body.status == 500:
            log.error("%s: a stream failed", request_id, exc_info=error)
        yield _frame({**body.content})
    yield b"data: [DONE]\n\n"


def _chunks(shape: Shape, item: Piece | End, ends: list[End]) -> list[Body]:
    """What ``item`` is sent as; an End is noted in ``ends``."""
    if isinstance(item, Piece):
        chunk = shape.chunk(item)
        return [] if chunk is None else [chunk]
    ends.append(item)
    return [shape.final(item)]


def _frame(body: Body) -> bytes:
    return b"data: " + encode(body) + b"\n\n"


async def unless_disconnected(receive: Receive, work: Callable[[], Awaitable[Result]]) -> Result:
    """What ``work`` gives; ClientGone, and ``work`` cancelled, if the client goes first."""
    working = asyncio.ensure_future(work())
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait({working, watching})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
