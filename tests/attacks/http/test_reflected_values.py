"""Values that come back to the client: none can become a header or a page."""

from __future__ import annotations

import pytest

from tests.server.api.serving import Served, error_of

pytestmark = pytest.mark.anyio
EVIL = "x\r\nset-cookie: owned=1"
PAGE = "<script>alert(1)</script>"


async def test_the_name_of_an_ignored_field_adds_no_header(server: Served) -> None:
    """It is percent-encoded in the header that names it."""
    response = await server.chat(max_tokens=1, **{EVIL: 1})
    assert response.status_code == 200
    assert "set-cookie" not in response.headers
    assert "%0D%0A" in response.headers["x-chainlora-ignored"]


async def test_a_request_id_adds_no_header(server: Served) -> None:
    """A line end in it never reaches the response."""
    async with server.connection() as connection:
        await connection.send(
            b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
            b"x-request-id: a\x0bset-cookie: b\r\n\r\n"
        )
        head = await connection.reader.readuntil(b"\r\n\r\n")
    assert b"set-cookie" not in head


@pytest.mark.parametrize("path", ["/v1/models/%s", "/%s"])
async def test_a_path_comes_back_as_json_and_never_as_a_page(server: Served, path: str) -> None:
    """A browser must not run what a link carries."""
    response = await server.http.get(path % PAGE)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert error_of(response)["message"]


async def test_a_model_s_name_comes_back_short(server: Served) -> None:
    """A megabyte in the name must not make a megabyte of error."""
    response = await server.http.get("/v1/models/" + "x" * 10_000)
    assert response.status_code == 404
    assert len(response.text) < 1000
