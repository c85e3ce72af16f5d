"""A web page posts to the server with what a browser sends without asking first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.server.api.serving import Served, chat, error_of

pytestmark = pytest.mark.anyio
BODY = json.dumps(chat()).encode()


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/plain; application/json",
        "text/json",
        "application/json-evil",
        "",
        None,
    ],
)
async def test_a_form_is_refused_even_if_its_body_is_json(
    server: Served, content_type: str | None
) -> None:
    """These types need no preflight, so a page could send them with the user's browser."""
    headers = {} if content_type is None else {"content-type": content_type}
    response = await server.http.post("/v1/chat/completions", content=BODY, headers=headers)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"
    assert server.engine.submitted == []


@pytest.mark.parametrize(
    "origin", ["https://evil.test", "http://localhost.evil.test", "null", "http://[", "file://"]
)
async def test_a_write_from_a_foreign_page_is_refused(server: Served, origin: str) -> None:
    """Multipart needs no preflight either; the browser names the page in Origin."""
    headers = {"origin": origin}
    for response in (
        await server.http.post("/v1/chat/completions", json=chat(), headers=headers),
        await server.http.post("/v1/completions", files={"file": b"x"}, headers=headers),
    ):
        assert response.status_code == 421
        assert error_of(response)["code"] == "forbidden_host"
    assert server.engine.submitted == []


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}]
)
async def test_a_foreign_page_sends_nothing_without_a_body_either(
    server: Served, headers: dict[str, str]
) -> None:
    """Such a request needs no media type; what cancels or pauses has no body."""
    response = await server.http.post("/v1/responses/resp_1/cancel", headers=headers)
    assert response.status_code == 421


async def test_a_request_without_a_body_needs_no_media_type(server: Served) -> None:
    """As clients of Node cancel; one that announces a body and no type is refused."""
    response = await server.http.post("/v1/responses/resp_1/cancel")
    assert error_of(response)["code"] == "response_not_found"
    chunked = await server.http.post("/v1/responses/resp_1/cancel", content=_pieces())
    assert chunked.status_code == 415


async def _pieces() -> AsyncIterator[bytes]:
    yield b"{}"


async def test_a_page_of_this_machine_may_write(server: Served) -> None:
    """A local console is no foreign page."""
    headers = {"origin": "http://localhost:3000"}
    response = await server.http.post(
        "/v1/chat/completions", json=chat(max_tokens=1), headers=headers
    )
    assert response.status_code == 200


async def test_a_preflight_gets_no_permission(server: Served) -> None:
    """Without the header the browser sends nothing more."""
    response = await server.http.options(
        "/v1/chat/completions",
        headers={
            "origin": "https://evil.test",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    assert response.status_code >= 400
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_compressed_body_is_refused(server: Served) -> None:
    """A kilobyte can unpack to a gigabyte."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await server.http.post("/v1/completions", content=b"x", headers=headers)
    assert response.status_code == 415
