"""Several requests on one connection, whatever became of those before."""

from __future__ import annotations

import json

import pytest

from tests.server.api.serving import BASE, Connection, chat, serving

pytestmark = pytest.mark.anyio
JSON = "content-type: application/json\r\n"


def request(method: str, path: str, body: bytes = b"", headers: str = JSON) -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}"
    if method != "GET":
        head += f"content-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def alive(connection: Connection) -> None:
    """The connection takes another request and answers it."""
    await connection.send(request("GET", "/health/live"))
    assert await connection.answer() == (200, {"status": "live"})


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (404, request("POST", "/v1/nothing", b'{"a": 1}')),
        (405, request("PUT", "/v1/chat/completions", b'{"a": 1}')),
        (415, request("POST", "/v1/chat/completions", b"a=1", "content-type: text/plain\r\n")),
        (421, request("POST", "/tokenize", b"{}", JSON + "origin: http://evil.test\r\n")),
        (400, request("POST", "/v1/chat/completions", b"{not json")),
        (400, request("POST", "/v1/chat/completions", b"{}")),
        (404, request("POST", "/v1/chat/completions", json.dumps(chat(model="no")).encode())),
        (413, request("POST", "/v1/chat/completions", b" " * 5000)),
        (404, request("DELETE", "/v1/responses/none", b'{"unread": true}')),
    ],
)
async def test_a_connection_lives_on_after_an_error_whose_body_nobody_read(
    status: int, sent: bytes
) -> None:
    """Twice, so that the second error is one on a used connection."""
    async with serving(max_body_bytes=4096) as server, server.connection() as connection:
        for _ in range(2):
            await connection.send(sent)
            found, body = await connection.answer()
            assert (found, list(body)) == (status, ["error"])
            await alive(connection)


async def test_requests_that_are_sent_at_once_are_answered_in_order() -> None:
    """Pipelined: a client may not wait for each answer."""
    complete = {"model": BASE, "prompt": "hi", "max_tokens": 2}
    async with serving() as server, server.connection() as connection:
        await connection.send(
            request("POST", "/v1/completions", json.dumps(complete).encode())
            + request("POST", "/v1/nothing", b"{}")
            + request("GET", "/health/live")
        )
        assert [(await connection.answer())[0] for _ in range(3)] == [200, 404, 200]


async def test_a_connection_lives_on_after_answers_and_streams() -> None:
    """Chat, embeddings and a stream read to its end, on one connection of a client's pool."""
    async with serving() as server:
        for _ in range(2):
            assert (await server.chat(max_tokens=2)).status_code == 200
            assert (await server.chat(max_tokens=2, stream=True)).status_code == 200
            body = {"model": BASE, "input": "hi"}
            assert (await server.http.post("/v1/embeddings", json=body)).status_code == 200
        assert len(server.server.server_state.connections) == 1
