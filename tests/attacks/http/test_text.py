"""Text that no tokenizer and no encoder can take."""

from __future__ import annotations

import pytest

from tests.server.api.serving import BASE, Served, error_of

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}
SURROGATE = "\\ud800"


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model": "{BASE}", "prompt": "{SURROGATE}"}}',
        f'{{"model": "{SURROGATE}", "prompt": "x"}}',
        f'{{"model": "{BASE}", "prompt": "x", "stop": "{SURROGATE}"}}',
        f'{{"model": "{BASE}", "prompt": "x", "user": "{SURROGATE}"}}',
        f'{{"model": "{BASE}", "prompt": "x", "{SURROGATE}": 1}}',
        f'{{"model": "{BASE}", "prompt": "x", "deep": [{{"a": ["{SURROGATE}"]}}]}}',
    ],
    ids=["prompt", "model", "stop", "user", "key", "unknown field"],
)
async def test_half_a_surrogate_pair_is_refused_wherever_it_stands(
    server: Served, body: str
) -> None:
    """Rust tokenizers and UTF-8 encoders raise on it, deep inside; that was a 500 elsewhere."""
    response = await server.http.post("/v1/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert "surrogate" in error_of(response)["message"]


@pytest.mark.parametrize("data", [b"\xff\xfe{}", b'{"model": "\xc3"}', b'{"a": "\xed\xa0\x80"}'])
async def test_what_is_not_utf8_is_refused(server: Served, data: bytes) -> None:
    """JSON between systems is UTF-8, and nothing is guessed."""
    response = await server.http.post("/v1/completions", content=data, headers=JSON)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


async def test_odd_but_valid_text_is_taken(server: Served) -> None:
    """NUL, line separators and the astral planes are characters."""
    response = await server.complete(prompt="\0\u2028\N{GRINNING FACE}\uffff", max_tokens=1)
    assert response.status_code == 200
