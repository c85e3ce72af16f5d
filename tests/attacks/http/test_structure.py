"""Bodies whose structure is the attack."""

from __future__ import annotations

import json

import pytest

from tests.server.api.serving import BASE, Served, chat, error_of

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"metadata":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
    ],
    ids=["open lists", "open objects", "closed lists", "closed objects"],
)
async def test_depth_is_refused_and_not_followed(server: Served, body: bytes) -> None:
    """A recursive reader ends in a stack overflow or a 500."""
    response = await server.http.post("/v1/chat/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert "nested deeper" in error_of(response)["message"]


async def test_a_key_that_occurs_twice_is_refused(server: Served) -> None:
    """A guard in front might read the first, this server the last."""
    body = f'{{"model": "{BASE}", "prompt": "x", "model": "{BASE}:pirate"}}'
    response = await server.http.post("/v1/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert "twice" in error_of(response)["message"]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"1", b'"x"', b"{", b"{}{}"])
async def test_what_is_no_object_is_refused(server: Served, body: bytes) -> None:
    """Routes take fields."""
    response = await server.http.post("/v1/completions", content=body, headers=JSON)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


async def test_a_hundred_thousand_unknown_fields_make_a_short_header(server: Served) -> None:
    """The answer must not grow with the nonsense in the request."""
    nonsense = {f"field{number}": 0 for number in range(50_000)}
    body = json.dumps({**chat(max_tokens=1), **nonsense}).encode()
    response = await server.http.post("/v1/chat/completions", content=body, headers=JSON)
    assert response.status_code == 200
    assert len(response.headers["x-chainlora-ignored"]) < 2000


async def test_thousands_of_wrong_messages_are_refused_by_their_first(server: Served) -> None:
    """The error must not grow with the nonsense in the request either."""
    response = await server.chat(messages=[{"role": "user", "content": 1}] * 20_000)
    assert response.status_code == 400
    assert error_of(response)["param"] == "messages[0].content"
    assert len(response.text) < 500
