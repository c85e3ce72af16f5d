"""The guards around the routes let pass what they should; tests/attacks/http has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import HTTPException

from server.api.transport import ImpatientProtocol
from server.core.errors import ForbiddenHost
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import chat, error_of, serving

pytestmark = pytest.mark.anyio


async def test_every_response_carries_a_request_id_of_its_own() -> None:
    """Also an error does, and a stream; a support question starts with it."""
    async with serving() as server:
        responses = [
            await server.chat(max_tokens=1),
            await server.chat(max_tokens=1, stream=True),
            await server.chat(model="other"),
            await server.http.get("/nowhere"),
            await server.http.get("/health/live", headers={"host": "evil.test"}),
        ]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(request_id.startswith("req_") for request_id in ids)
    assert len(set(ids)) == len(ids)


async def test_a_client_s_own_request_id_comes_back() -> None:
    """Traces cross machines."""
    async with serving() as server:
        response = await server.http.get("/health/live", headers={"x-request-id": "a.B-c_7"})
    assert response.headers["x-request-id"] == "a.B-c_7"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a;b", "{}"])
async def test_a_request_id_that_could_mislead_a_log_is_replaced(given: str) -> None:
    """It stands in log lines."""
    async with serving() as server:
        response = await server.http.get("/health/live", headers={"x-request-id": given})
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:80"],
)
async def test_every_name_of_this_machine_is_answered(host: str) -> None:
    """Tunnels and containers change the port."""
    async with serving() as server:
        response = await server.http.get("/health/live", headers={"host": host})
    assert response.status_code == 200


async def test_further_hosts_can_be_allowed() -> None:
    """Behind a proxy the server has another name."""
    async with serving(allowed_hosts=("box.local",)) as server:
        allowed = await server.http.get("/health/live", headers={"host": "Box.Local:8000"})
        other = await server.http.get("/health/live", headers={"host": "sub.box.local"})
    assert (allowed.status_code, other.status_code) == (200, 421)


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json;"]
)
async def test_json_is_known_by_its_media_type(content_type: str) -> None:
    """Parameters and case do not matter."""
    async with serving() as server:
        body = '{"model": "org/tiny:v1", "prompt": "hi", "max_tokens": 1}'
        headers = {"content-type": content_type}
        response = await server.http.post("/v1/completions", content=body, headers=headers)
    assert response.status_code == 200


async def test_a_body_as_long_as_the_limit_is_taken() -> None:
    """The limit itself is allowed, announced or not."""

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        yield body[:100]
        yield body[100:]

    start = b'{"model": "org/tiny:v1", "prompt": "hi", "max_tokens": 1, "pad": "'
    body = start + b"x" * (2048 - len(start) - 2) + b'"}'
    json_type = {"content-type": "application/json"}
    async with serving(max_body_bytes=2048) as server:
        announced = await server.http.post("/v1/completions", content=body, headers=json_type)
        chunked = await server.http.post("/v1/completions", content=pieces(body), headers=json_type)
    assert (announced.status_code, chunked.status_code) == (200, 200)


async def test_multipart_has_the_right_type_but_no_route_takes_it() -> None:
    """Uploads come with a later route; until then the body is not JSON."""
    async with serving() as server:
        response = await server.http.post("/v1/completions", files={"file": b"x"})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


async def test_an_unknown_path_and_a_wrong_method_have_the_shape_of_every_error() -> None:
    """The framework's own errors are no exception; 405 says what is allowed."""
    async with serving() as server:
        path = await server.http.post("/v1/nothing", json={})
        slash = await server.http.get("/health/live/")
        method = await server.http.get("/v1/chat/completions")
    assert (path.status_code, error_of(path)["code"]) == (404, "route_not_found")
    assert (slash.status_code, error_of(slash)["code"]) == (404, "route_not_found")
    assert (method.status_code, error_of(method)["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"


async def test_the_deadline_for_headers_ends_with_the_headers() -> None:
    """A request may run for minutes, and the connection may carry another after it."""
    async with serving(FakeEngine(script=saying("x"))) as server:
        server.engine.hold()
        asked = asyncio.create_task(server.chat())
        await server.engine.until(lambda: server.engine.stats().waiting == 1)
        (connection,) = server.server.server_state.connections
        assert isinstance(connection, ImpatientProtocol)
        assert connection._waiting is None
        server.engine.release()
        assert (await asked).status_code == 200
        assert (await server.http.post("/v1/chat/completions", json=chat())).status_code == 200
        assert connection._waiting is None
        assert set(server.server.server_state.connections) == {connection}


async def test_a_later_route_s_errors_keep_the_shape_too() -> None:
    """FastAPI's own 422 would repeat the value, and its other errors have a shape of their own."""

    async def probe(limit: int) -> None:
        raise HTTPException(418, "no coffee")

    async with serving() as server:
        server.application.api.add_api_route("/probe", probe)
        invalid = await server.http.get("/probe", params={"limit": "s3cret"})
        teapot = await server.http.get("/probe", params={"limit": "1"})
    assert (invalid.status_code, error_of(invalid)["param"]) == (400, "limit")
    assert "s3cret" not in invalid.text
    assert (teapot.status_code, error_of(teapot)["message"]) == (400, "no coffee")


async def test_what_is_not_http_passes_the_guards_for_http() -> None:
    """Lifespan has no headers; a websocket has, and its host is checked as any other's."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup" if not sent else "lifespan.shutdown"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with serving() as server:
        api = server.application.api
        await api({"type": "lifespan", "state": {}}, receive, send)
        socket = {"type": "websocket", "path": "/x", "headers": [(b"host", b"evil.test")]}
        with pytest.raises(ForbiddenHost):
            await api(socket, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
