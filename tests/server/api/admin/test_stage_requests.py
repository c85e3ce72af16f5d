"""What a stage's request may not hold: strict types, bounds, and no field that nobody defines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api.admin.conftest import ROW, Site
from tests.server.api.serving import error_of

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"chain": "a/b"}, "chain", "invalid_request"),
    ({"chain": ""}, "chain", "invalid_request"),
    ({"chain": "x" * 65}, "chain", "invalid_request"),
    ({"chain": 7}, "chain", "invalid_request"),
    ({"chain": None}, "chain", "invalid_request"),
    ({"chain": "support\n"}, "chain", "invalid_request"),
    ({"examples": []}, "examples", "invalid_request"),
    ({"examples": {}}, "examples", "invalid_request"),
    ({"examples": [ROW, "x"]}, "examples", "invalid_request"),
    ({"dataset": "d1"}, "dataset", "invalid_request"),
    ({"examples": None}, "dataset", "invalid_request"),
    ({"examples": None, "dataset": "../d"}, "dataset", "invalid_request"),
    ({"examples": None, "dataset": "d\n"}, "dataset", "invalid_request"),
    ({"examples": None, "dataset": "d" * 129}, "dataset", "invalid_request"),
    ({"examples": None, "dataset": "missing"}, "dataset", "dataset_not_found"),
    ({"training_file": "file-1"}, "training_file", "unsupported_parameter"),
    ({"validation_file": "file-1"}, "validation_file", "unsupported_parameter"),
    ({"replay": {"share": 0.1}}, "replay", "unsupported_parameter"),
    ({"gate": {}}, "gate", "unsupported_parameter"),
    ({"on_success": "hold"}, "on_success", "unsupported_parameter"),
    ({"iters": 1, "epochs": 1}, "epochs", "invalid_request"),
    ({"iters": 0}, "iters", "invalid_request"),
    ({"iters": True}, "iters", "invalid_request"),
    ({"iters": "7"}, "iters", "invalid_request"),
    ({"iters": 1.5}, "iters", "invalid_request"),
    ({"iters": 10**30}, "iters", "invalid_request"),
    ({"epochs": -1}, "epochs", "invalid_request"),
    ({"batch_size": 0}, "batch_size", "invalid_request"),
    ({"learning_rate": 0}, "learning_rate", "invalid_request"),
    ({"learning_rate": "1e-3"}, "learning_rate", "invalid_request"),
    ({"learning_rate": True}, "learning_rate", "invalid_request"),
    ({"schedule": "Linear"}, "schedule", "invalid_request"),
    ({"strategy": "stack"}, "strategy", "invalid_request"),
    ({"validation_split": 1}, "validation_split", "invalid_request"),
    ({"validation_split": 0.1, "validation_dataset": "d"}, "validation_split", "invalid_request"),
    ({"eval_every": 5}, "eval_every", "invalid_request"),
    ({"sample_every": 5}, "sample_every", "invalid_request"),
    ({"seed": -1}, "seed", "invalid_request"),
    ({"seed": 2**63}, "seed", "invalid_request"),
    ({"samples": "hi"}, "samples", "invalid_request"),
    ({"samples": [""]}, "samples[0]", "invalid_request"),
    ({"samples": ["x"] * 17}, "samples", "invalid_request"),
    ({"priority": 1001}, "priority", "invalid_request"),
    ({"parent": 0}, "parent", "invalid_request"),
    ({"parent": True}, "parent", "invalid_request"),
    ({"parent": 1.0}, "parent", "invalid_request"),
    ({"parent": "../x"}, "parent", "invalid_request"),
    ({"parent": ["a", "b"]}, "parent", "invalid_request"),
    ({"lora": 8}, "lora", "invalid_request"),
    ({"lora": {"rank": 0}}, "lora.rank", "invalid_request"),
    ({"lora": {"scale": 0}}, "lora.scale", "invalid_request"),
    ({"lora": {"num_layers": 0}}, "lora.num_layers", "invalid_request"),
    ({"lora": {"keys": []}}, "lora.keys", "invalid_request"),
    ({"lora": {"keys": [7]}}, "lora.keys[0]", "invalid_request"),
    ({"lora": {"keys": ["k" * 257]}}, "lora.keys[0]", "invalid_request"),
    ({"lora": {"dropout": 1}}, "lora.dropout", "invalid_request"),
    ({"lora": {"alpha": 16}}, "lora.alpha", "invalid_request"),
    ({"learning_rte": 1e-3}, "learning_rte", "invalid_request"),
    ({"model": "tiny"}, "model", "invalid_request"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_does_not_fit_is_refused_by_its_name(
    site: Site, fields: dict[str, Any], param: str, code: str
) -> None:
    """Strict types, bounds and no unknown field, at any depth; nothing is queued."""
    response = site.add(**fields)
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (
        404 if code == "dataset_not_found" else 400,
        param,
        code,
    )
    assert site.behind.state.asked == []


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e400", "1" * 5000], ids=lambda text: text[:10]
)
def test_numbers_that_are_none_are_refused(site: Site, number: str) -> None:
    """A learning rate of NaN would train nothing but NaN."""
    body = f'{{"chain": "c", "examples": [{{}}], "learning_rate": {number}}}'
    headers = {"content-type": "application/json"}
    response = site.http.post("/admin/stages", content=body, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")
