"""A web page's own name is made to point at 127.0.0.1; the browser then sends it in Host."""

from __future__ import annotations

import pytest

from tests.server.api.serving import Served, chat, error_of

pytestmark = pytest.mark.anyio

FOREIGN = [
    "evil.test",
    "evil.test:8000",
    "127.0.0.1.evil.test",
    "localhost.evil.test",
    "evil.test#localhost",
    "evil.test/localhost",
    "user@localhost",
    "localhost:80:80",
    "localhost:x",
    "localhost.",
    "[::1",
    "[evil]",
    "0.0.0.0",
    "192.168.0.1",
    "2130706433",
    "",
]


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_foreign_host_gets_no_answer_from_any_route(server: Served, host: str) -> None:
    """Reading models and generating are refused alike, before any work."""
    for request in (
        server.http.build_request("GET", "/v1/models", headers={"host": host}),
        server.http.build_request(
            "POST", "/v1/chat/completions", headers={"host": host}, json=chat()
        ),
    ):
        response = await server.http.send(request)
        assert response.status_code == 421
        assert error_of(response)["code"] == "forbidden_host"
    assert server.engine.submitted == []


async def test_a_request_without_a_host_is_refused(server: Served) -> None:
    """HTTP/1.0 allows it; a browser never sends it."""
    async with server.connection() as connection:
        await connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
        status, body = await connection.answer()
    assert (status, body["error"]["code"]) == (421, "forbidden_host")


async def test_two_hosts_are_refused(server: Served) -> None:
    """A proxy might check the one and this server the other."""
    async with server.connection() as connection:
        await connection.send(
            b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: evil.test\r\n\r\n"
        )
        status, body = await connection.answer()
    assert status in (400, 421)
    assert list(body) == ["error"]
