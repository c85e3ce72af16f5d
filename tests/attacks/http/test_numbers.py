"""Numbers that are none, in every place that takes a number."""

from __future__ import annotations

import pytest

from tests.server.api.serving import Served, error_of

pytestmark = pytest.mark.anyio
FIELDS = ["temperature", "top_p", "seed", "max_tokens", "presence_penalty", "min_p", "top_k", "n"]
VALUES = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, '"7"', "true", "[1]"]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:12])
async def test_no_field_takes_it(server: Served, value: str) -> None:
    """NaN among logits makes every token NaN, for every row of the batch."""
    for field in FIELDS:
        body = f'{{"model": "org/tiny:v1", "prompt": "hi", "{field}": {value}}}'
        response = await server.http.post(
            "/v1/completions", content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400, field
        assert error_of(response)["type"] == "invalid_request_error"
        assert len(response.text) < 500
    assert server.engine.submitted == []


@pytest.mark.parametrize("value", ["NaN", "1e400", "true", '"5"', "101"])
async def test_no_bias_is_it(server: Served, value: str) -> None:
    """Added to a logit, it would decide every draw."""
    body = f'{{"model": "org/tiny:v1", "prompt": "hi", "logit_bias": {{"5": {value}}}}}'
    response = await server.http.post(
        "/v1/completions", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert server.engine.submitted == []
