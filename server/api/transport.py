"""HTTP/1.1 on a socket, with the deadlines that uvicorn has not."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.api.wire import encode
from server.core.errors import InvalidRequest
from server.errors import to_body


class ImpatientProtocol(H11Protocol):
    """Closes a connection that takes longer than ``header_timeout_s`` over a request's headers.

    The same limit holds for a new connection that sends nothing, and for the rest of a body that
    nobody wants any more because the request has been answered. uvicorn's keep-alive limit covers
    none of these: it ends with the first byte. What is not HTTP is answered in OpenAI's shape.
    """

    header_timeout_s: ClassVar[float] = 10.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here; its first request must follow."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A part of a request; the first part of its headers starts the clock."""
        super().data_received(data)
        self._wait() if self._is_idle() else self._stop_waiting()

    def on_response_complete(self) -> None:
        """The request is answered, possibly before it has been sent to its end."""
        super().on_response_complete()
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if self._is_idle() and begun:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or was sent away."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless a response is on its way already; then close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = encode({**to_body(InvalidRequest(msg)).content})
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(content))),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_idle(self) -> bool:
        cycle = self.cycle
        return cycle is None or cycle.response_complete

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._is_idle():
            self.transport.close()


def http_protocol(header_timeout_s: float) -> type[ImpatientProtocol]:
    """The protocol with this limit, as ``uvicorn.Config`` takes it: as a class."""
    return type("HttpProtocol", (ImpatientProtocol,), {"header_timeout_s": header_timeout_s})
