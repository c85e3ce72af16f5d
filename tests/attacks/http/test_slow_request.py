"""Requests that never end: each holds a connection until its deadline, not for ever.

uvicorn has no deadline for any of these (FACTS 5).
"""

from __future__ import annotations

import pytest

from tests.server.api.serving import Served

pytestmark = pytest.mark.anyio
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture
def limits() -> dict[str, float]:
    """Deadlines that a test can wait for."""
    return {"max_body_bytes": 1 << 20, "header_timeout_s": 0.2, "body_timeout_s": 0.2}


@pytest.mark.parametrize("begun", [b"", b"G", HEAD], ids=["nothing", "a byte", "half the headers"])
async def test_headers_must_arrive(server: Served, begun: bytes) -> None:
    """The connection is closed without an answer: nobody knows what was asked."""
    async with server.connection() as connection:
        await connection.send(begun)
        assert await connection.closed()


async def test_headers_must_arrive_also_after_a_first_request(server: Served) -> None:
    """The keep-alive limit ends with the first byte of the next request."""
    async with server.connection() as connection:
        await connection.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea")
        status, _ = await connection.answer()
        assert status == 200
        assert await connection.closed()


async def test_a_body_must_arrive(server: Served) -> None:
    """The client is told, and its connection closed: the rest would be taken for a request."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"content-length: 100\r\n\r\n{")
        status, body = await connection.answer()
        assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
        assert await connection.closed()
    assert server.engine.submitted == []


async def test_the_rest_of_a_refused_body_is_not_waited_for(server: Served) -> None:
    """A request that is answered early must not keep its connection by never ending."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"content-length: 1000000000\r\n\r\n{")
        status, _ = await connection.answer()
        assert status == 413
        assert await connection.closed()


async def test_what_is_not_http_is_told_so_and_closed(server: Served) -> None:
    """In the shape of every other error."""
    async with server.connection() as connection:
        await connection.send(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        status, body = await connection.answer()
        assert (status, body["error"]["code"]) == (400, "invalid_request")
        assert await connection.closed()


async def test_a_broken_body_does_not_break_an_answer_in_flight(server: Served) -> None:
    """Garbage between chunks is met while the route still waits for the body."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nZZZ\r\n")
        status, body = await connection.answer()
        assert status == 400
        assert list(body) == ["error"]
        assert await connection.closed()
