"""Stages over HTTP: what is asked reaches adapter management, and what it says comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from adapters.errors import (
    AdapterError,
    LineFault,
    MemoryExceeded,
    ParentMoved,
    ShapeContradiction,
    StorageFull,
)
from adapters.lineage import Fault, LoraRequest, TrainSettings
from adapters.states import StageState
from tests.administration.state import bad_lines
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
        "unavailable": None,
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
            "loss": None,
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
    site.behind.state.refusals.append(bad_lines(LineFault(2, "no prompt"), LineFault(9, "empty")))
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
        "loss": None,
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


def test_steering_needs_no_body_and_a_body_its_type(site: Site) -> None:
    """Clients cancel with an empty POST; from a foreign page none passes, see tests/attacks."""
    stage = site.queued()
    bare = site.http.post(f"/admin/stages/{stage}/pause")
    site.http.post(f"/admin/stages/{stage}/resume")
    untyped = site.http.post(f"/admin/stages/{stage}/pause", content=b"{}")
    assert (bare.status_code, untyped.status_code) == (200, 415)


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


def test_two_idempotency_keys_are_none(site: Site) -> None:
    """Which of them would count?"""
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    body = {"chain": "a", "examples": [ROW]}
    response = site.http.post("/admin/stages", json=body, headers=headers)
    assert (response.status_code, error_of(response)["param"]) == (400, "Idempotency-Key")
