"""Stages over HTTP: what is asked reaches adapter management, and what it says comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from adapters.errors import (
    AdapterError,
    MemoryExceeded,
    ParentMoved,
    ShapeContradiction,
    StorageFull,
)
from adapters.lineage import Fault, LoraRequest, TrainSettings
from adapters.states import StageState
from tests.administration.state import BadLines, Line
from tests.server.api.admin.conftest import ROW, Site
from tests.server.api.serving import error_of


def test_a_stage_is_accepted_with_its_object(site: Site) -> None:
    """202: it is durable and queued; the object names the revision that it will become."""
    response = site.add(epochs=2, samples=["hi"], priority=3)
    assert response.status_code == 202
    stage = response.json()
    assert stage == {
        "id": stage["id"],
        "object": "stage",
        "chain": "support",
        "number": 1,
        "status": "queued",
        "model": "tiny:support@1",
        "revision": None,
        "revision_deleted_at": None,
        "parent": None,
        "origin": "trained",
        "dataset": "inline",
        "validation_dataset": None,
        "lora": None,
        "settings": stage["settings"],
        "samples": ["hi"],
        "priority": 3,
        "progress": {
            "step": 0,
            "steps": 0,
            "trained_tokens": 0,
            "tokens_per_s": None,
            "left_s": None,
        },
        "metrics": {},
        "record": {},
        "error": None,
        "created_at": 1_700_000_000,
        "started_at": None,
        "finished_at": None,
    }
    assert (stage["settings"]["epochs"], stage["settings"]["batch_size"]) == (2, 8)


def test_every_setting_reaches_the_trainer(site: Site) -> None:
    """Nothing is accepted and dropped on the way."""
    settings: dict[str, Any] = {
        "iters": 7,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.5,
        "max_grad_norm": 0,
        "max_seq_length": 99,
        "micro_batch_tokens": 77,
        "validation_split": 0.25,
        "eval_every": 4,
        "checkpoint_every": 5,
        "sample_every": 6,
        "seed": 11,
        "strategy": "continue",
    }
    assert set(settings) == set(TrainSettings.__dataclass_fields__) - {"epochs"}
    lora = {"rank": 4, "scale": 2, "num_layers": -1, "keys": ["self_attn.q_proj"], "dropout": 0.1}
    response = site.add(
        lora=lora, parent=3, samples=["a", "b"], priority=-1, on_success="publish", **settings
    )
    assert response.status_code == 202, response.text
    (asked,) = site.behind.state.asked
    assert asked.settings == TrainSettings(**settings)
    assert asked.lora == LoraRequest(4, 2.0, -1, ("self_attn.q_proj",), 0.1)
    assert (asked.parent, asked.samples, asked.priority) == ("3", ("a", "b"), -1)
    assert (asked.dataset, asked.examples) == (None, [ROW])


def test_without_a_length_a_stage_goes_through_its_data_once(site: Site) -> None:
    """The default is one epoch; every other default is the trainer's own."""
    site.add(iters=None, lora=None, samples=None)
    (asked,) = site.behind.state.asked
    assert asked.settings == TrainSettings(epochs=1)
    assert (asked.lora, asked.parent, asked.samples) == (None, None, ())


@pytest.mark.parametrize("parent", [1, "1", "stable", "sha256-0123abcd", "a:b"])
def test_a_parent_is_a_number_an_id_or_a_label(site: Site, parent: object) -> None:
    """All three name a revision of the chain."""
    site.add(parent=parent)
    assert site.behind.state.asked[0].parent == str(parent)


def test_the_data_may_be_an_uploaded_set(site: Site) -> None:
    """Also for validation."""
    upload = {"file": ("rows.jsonl", b"{}\n{}\n")}
    dataset = site.http.post("/admin/datasets", files=upload).json()["id"]
    body = {"chain": "support", "dataset": dataset, "validation_dataset": dataset, "eval_every": 5}
    response = site.http.post("/admin/stages", json=body)
    assert response.status_code == 202
    assert (response.json()["dataset"], response.json()["validation_dataset"]) == (dataset, dataset)


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


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ShapeContradiction("rank is 8, not 4", param="lora"), 409, "shape_contradiction"),
        (ParentMoved("the head moved", param="parent"), 409, "parent_moved"),
        (MemoryExceeded("needs 9 GB, 1 GB is free"), 413, "memory_exceeded"),
        (StorageFull("the disk is full"), 507, "storage_full"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_refusals_of_adapter_management_keep_their_code(
    site: Site, error: AdapterError, status: int, code: str
) -> None:
    """The message says how to mend it, so it reaches the client as it is."""
    site.behind.state.refusals.append(error)
    response = site.add()
    assert response.status_code == status
    assert (error_of(response)["message"], error_of(response)["code"]) == (str(error), code)


def test_bad_rows_are_listed_line_by_line(site: Site) -> None:
    """All of them at once, for programs as well as in the message."""
    site.behind.state.refusals.append(BadLines(Line(2, "no prompt"), Line(9, "empty")))
    response = site.add()
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "data_error")
    assert error["lines"] == [
        {"line": 2, "reason": "no prompt"},
        {"line": 9, "reason": "empty"},
    ]


def test_an_idempotency_key_asks_once(site: Site) -> None:
    """The same body again is the same stage; key order is no difference, another value is."""
    headers = {"idempotency-key": "k1"}
    first = {"chain": "a", "examples": [ROW], "iters": 5}
    again = {"iters": 5, "examples": [ROW], "chain": "a"}
    posts = [
        site.http.post("/admin/stages", json=body, headers=headers)
        for body in (first, again, {**first, "iters": 6})
    ]
    assert [post.status_code for post in posts] == [202, 202, 409]
    assert posts[0].json()["id"] == posts[1].json()["id"]
    assert error_of(posts[2])["code"] == "idempotency_conflict"
    assert len(site.behind.state.asked) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "k\u00e9"])
def test_a_key_is_visible_ascii(site: Site, key: str) -> None:
    """It is stored and compared; 255 characters are plenty."""
    headers = [(b"idempotency-key", key.encode())]
    response = site.http.post("/admin/stages", json={"chain": "a"}, headers=headers)
    assert response.status_code == 400


def test_a_stage_shows_how_far_it_is_and_how_it_ended(site: Site) -> None:
    """Progress, shape, revision and times; a failed one its error."""
    stage, failed = site.queued(), site.queued("other")
    stages = site.behind.stages
    stages.reach(stage, StageState.RUNNING)
    stages.step(stage, 3, 10)
    running = site.http.get(f"/admin/stages/{stage}").json()
    assert running["progress"] == {
        "step": 3,
        "steps": 10,
        "trained_tokens": 300,
        "tokens_per_s": 1234.5,
        "left_s": 7.0,
    }
    assert running["lora"]["keys"] == ["self_attn.q_proj", "self_attn.v_proj"]
    stages.reach(failed, StageState.FAILED, error=Fault("non_finite", "lower the rate"))
    ended = site.http.get(f"/admin/stages/{failed}").json()
    assert ended["error"] == {"code": "non_finite", "message": "lower the rate"}
    assert (ended["status"], ended["finished_at"]) == ("failed", 1_700_000_000)


def test_figures_that_json_cannot_hold_are_null(site: Site) -> None:
    """A diverged loss must not make the stage unreadable."""
    stage = site.queued()
    state = site.behind.state
    metrics = {"loss": float("nan"), "all": [float("inf"), 1.0]}
    state.stages[stage] = replace(state.stages[stage], metrics=metrics)
    shown = site.http.get(f"/admin/stages/{stage}").json()["metrics"]
    assert shown == {"loss": None, "all": [None, 1.0]}


def test_a_list_is_newest_first_in_pages(site: Site) -> None:
    """``after`` is the last id seen; ``has_more`` ends the walk."""
    ids = [site.queued() for _ in range(3)][::-1]
    first = site.http.get("/admin/stages", params={"limit": 2}).json()
    rest = site.http.get("/admin/stages", params={"after": ids[1]}).json()
    assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
    assert [row["id"] for row in first["data"] + rest["data"]] == ids


def test_a_list_can_be_narrowed(site: Site) -> None:
    """By chain and by status."""
    done, other = site.published("a", "b")
    waiting = site.queued("a")

    def ids(**params: str) -> list[str]:
        return [row["id"] for row in site.http.get("/admin/stages", params=params).json()["data"]]

    assert ids(chain="a") == [waiting, done]
    assert ids(status="succeeded") == [other, done]
    assert ids(chain="a", status="queued") == [waiting]


@pytest.mark.parametrize(
    ("query", "param", "status"),
    [
        ("limit=0", "limit", 400),
        ("limit=101", "limit", 400),
        ("limit=1e1", "limit", 400),
        ("limit=%D9%A1", "limit", 400),
        ("limit=-1", "limit", 400),
        ("status=done", "status", 400),
        ("state=queued", "state", 400),
        ("limit=1&limit=2", None, 400),
        ("after=no/such", "after", 404),
        ("after=stage_9999", None, 404),
        ("chain=a%00", "chain", 404),
    ],
)
def test_a_query_that_does_not_fit_is_refused(
    site: Site, query: str, param: str | None, status: int
) -> None:
    """A misspelled filter must not list everything."""
    response = site.http.get(f"/admin/stages?{query}")
    assert (response.status_code, error_of(response)["param"]) == (status, param)


def test_a_stage_is_steered_by_posts(site: Site) -> None:
    """Each answers with the stage as it is then."""
    stage = site.queued()
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        response = site.http.post(f"/admin/stages/{stage}/{verb}", json={})
        assert (response.status_code, response.json()["status"]) == (200, status)
    refused = site.http.post(f"/admin/stages/{stage}/pause", json={})
    assert (refused.status_code, error_of(refused)["code"]) == (409, "wrong_state")


def test_steering_takes_no_fields(site: Site) -> None:
    """A field there would be one that somebody hopes has an effect."""
    stage = site.queued()
    response = site.http.post(f"/admin/stages/{stage}/cancel", json={"force": True})
    assert (response.status_code, error_of(response)["param"]) == (400, "force")
    assert site.behind.stages.get(stage).state is StageState.QUEUED


def test_steering_needs_no_body_but_its_type(site: Site) -> None:
    """A page can send an empty POST, but not as JSON."""
    stage = site.queued()
    json_type = {"content-type": "application/json"}
    bare = site.http.post(f"/admin/stages/{stage}/pause")
    typed = site.http.post(f"/admin/stages/{stage}/pause", headers=json_type)
    assert (bare.status_code, typed.status_code) == (415, 200)


Call = Callable[[httpx.Client, str], httpx.Response]
CALLS: list[Call] = [
    lambda http, stage: http.get(f"/admin/stages/{stage}"),
    lambda http, stage: http.get(f"/admin/stages/{stage}/events"),
    lambda http, stage: http.get(f"/admin/stages/{stage}/events?stream=false"),
    lambda http, stage: http.post(f"/admin/stages/{stage}/cancel", json={}),
    lambda http, stage: http.post(f"/admin/stages/{stage}/pause", json={}),
    lambda http, stage: http.post(f"/admin/stages/{stage}/resume", json={}),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "stage",
    ["stage_9999", "%00", "a%0Ab", "..%5c..%5cetc", "%2e%2e", "x" * 200, "%F0%9F%98%80", "'--"],
)
def test_an_id_that_no_stage_has_is_not_found(site: Site, call: Call, stage: str) -> None:
    """Also before a stream begins, and whatever is in it."""
    response = call(site.http, stage)
    assert (response.status_code, error_of(response)["code"]) == (404, "stage_not_found")


def test_a_path_inside_an_id_is_no_route(site: Site) -> None:
    """The id never reaches a file name."""
    response = site.http.get("/admin/stages/..%2f..%2fetc%2fpasswd")
    assert (response.status_code, error_of(response)["code"]) == (404, "route_not_found")
