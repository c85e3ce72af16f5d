"""One generation told as named events, the way of Anthropic's Messages and OpenAI's Responses."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Protocol

from sse_starlette import ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.generation import Ask, admitted
from server.api.parts import Parts
from server.api.respond import ClientGone, event_stream, unless_disconnected
from server.api.rows import End, Reply
from server.api.scope import request_id_of
from server.api.transcript import Piece
from server.api.wire import Body, encode
from server.errors import ErrorBody, to_body

log = logging.getLogger(__name__)


class Telling(Protocol):
    """One answer in the making. Every event is an object with a ``type``, which names it."""

    def opening(self) -> Iterable[Body]:
        """The events before anything is generated."""
        ...

    def add(self, item: Piece | End) -> Iterable[Body]:
        """The events that ``item`` brings; raises ShuttingDown for an answer that was cut."""
        ...

    def failed(self, error: ErrorBody, request_id: str) -> Iterable[Body]:
        """The last events of an answer that can not go on."""
        ...

    def body(self) -> Body:
        """The answer as it is now: after the End, what a request without ``stream`` gets."""
        ...

    def close(self) -> None:
        """Nothing follows, whether the answer has ended, has failed or is not wanted any more."""
        ...


class ToldResponse(Response):
    """Runs ``ask`` when it is sent, whole or as events; the row is alive only meanwhile.

    As with ``GenerationResponse``, nothing is sent before the row's first event is there.
    """

    def __init__(
        self,
        parts: Parts,
        ask: Ask,
        telling: Telling,
        *,
        stream: bool,
        headers: Mapping[str, str],
        ping: Callable[[], ServerSentEvent] | None = None,
    ) -> None:
        super().__init__()
        self._parts, self._ask, self._telling = parts, ask, telling
        self._stream, self._extra_headers, self._ping = stream, headers, ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, run and answer; whatever happens, the row ends and the telling is closed."""
        try:
            async with admitted(self._parts, self._ask) as reply:
                respond = self._streamed if self._stream else self._whole
                response = await respond(scope, receive, reply)
                await response(scope, receive, send)
        except ClientGone:
            log.info("%s: the client is gone", request_id_of(scope))
        finally:
            self._telling.close()

    async def _whole(self, scope: Scope, receive: Receive, reply: Reply) -> Response:
        try:
            await unless_disconnected(receive, lambda: tell(self._telling, reply))
        except ClientGone:
            raise
        except Exception as error:
            request_id = request_id_of(scope)
            list(self._telling.failed(to_body(error, request_id=request_id), request_id))
            raise
        return Response(
            encode(self._telling.body()),
            media_type="application/json",
            headers=self._extra_headers,
        )

    async def _streamed(self, scope: Scope, receive: Receive, reply: Reply) -> Response:
        head = await unless_disconnected(receive, lambda: anext(reply))
        frames = _frames(self._telling, head, reply, request_id_of(scope))
        return event_stream(frames, self._parts.limits, self._extra_headers, self._ping)


async def tell(telling: Telling, reply: Reply) -> None:
    """Let ``telling`` hear the whole reply; raises what the row failed with."""
    list(telling.opening())
    async for item in reply:
        list(telling.add(item))


async def _frames(
    telling: Telling, head: Piece | End, reply: Reply, request_id: str
) -> AsyncIterator[bytes]:
    try:
        for event in telling.opening():
            yield _frame(event)
        for event in telling.add(head):
            yield _frame(event)
        async for item in reply:
            for event in telling.add(item):
                yield _frame(event)
    except Exception as error:  # the status is sent: only the stream can tell
        body = to_body(error, request_id=request_id)
        if body.status == 500:
            log.error("%s: a stream failed", request_id, exc_info=error)
        for event in telling.failed(body, request_id):
            yield _frame(event)


def _frame(event: Body) -> bytes:
    return f"event: {event['type']}\ndata: ".encode() + encode(event) + b"\n\n"
