"""Chains over HTTP: lineage, and every operation on heads, labels and revisions."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.states import StageState
from tests.server.api.admin.conftest import Site
from tests.server.api.serving import error_of


def test_a_chain_shows_its_head_and_every_stage(site: Site) -> None:
    """Also stages that have no revision."""
    first, failed, last = site.queued("a"), site.queued("a"), site.queued("a")
    site.behind.stages.succeed(first)
    site.behind.stages.reach(failed, StageState.FAILED)
    site.behind.stages.succeed(last)
    chain = site.http.get("/admin/chains/a").json()
    stages = chain.pop("stages")
    assert chain == {
        "id": "a",
        "object": "chain",
        "model": "tiny:a",
        "base": "base-fingerprint",
        "head": 3,
        "head_revision": "sha256-a-3",
        "unavailable": None,
        "labels": {},
        "created_at": 1_700_000_000,
    }
    assert [(stage["number"], stage["status"]) for stage in stages] == [
        (1, "succeeded"),
        (2, "failed"),
        (3, "succeeded"),
    ]


def test_chains_are_listed_by_name_in_pages(site: Site) -> None:
    """``after`` is the last name seen."""
    site.published("b", "a", "c")
    first = site.http.get("/admin/chains", params={"limit": 2}).json()
    rest = site.http.get("/admin/chains", params={"after": "b"}).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [row["id"] for row in first["data"] + rest["data"]] == ["a", "b", "c"]


@pytest.mark.parametrize("revision", [1, "1", "sha256-a-1", "first"])
def test_a_head_moves_to_a_number_an_id_or_a_label(site: Site, revision: object) -> None:
    """Back, and forth again."""
    site.published("a", "a")
    site.http.put("/admin/chains/a/labels/first", json={"revision": 1})
    moved = site.http.post("/admin/chains/a/rollback", json={"revision": revision})
    assert (moved.status_code, moved.json()["head"]) == (200, 1)
    assert site.http.post("/admin/chains/a/rollback", json={"revision": 2}).json()["head"] == 2


def test_a_fork_is_a_chain_of_its_own(site: Site) -> None:
    """From the head, or from another revision; a taken name is refused."""
    site.published("a", "a")
    head = site.http.post("/admin/chains/a/fork", json={"name": "b"})
    older = site.http.post("/admin/chains/a/fork", json={"name": "c", "revision": 1})
    taken = site.http.post("/admin/chains/a/fork", json={"name": "b"})
    assert (head.json()["id"], head.json()["head_revision"]) == ("b", "sha256-a-2")
    assert older.json()["head_revision"] == "sha256-a-1"
    assert (taken.status_code, error_of(taken)["code"]) == (409, "chain_exists")
    (stage,) = site.http.get("/admin/chains/b").json()["stages"]
    assert (stage["origin"], stage["settings"], stage["lora"]["rank"]) == ("forked", None, 8)


def test_pruning_tells_what_it_deleted(site: Site) -> None:
    """The newest stay; lineage keeps the rest, marked."""
    site.published("a", "a", "a")
    pruned = site.http.post("/admin/chains/a/prune", json={"keep_last": 1}).json()
    assert pruned["data"] == [
        {"id": "sha256-a-1", "object": "revision", "deleted": True},
        {"id": "sha256-a-2", "object": "revision", "deleted": True},
    ]
    stages = site.http.get("/admin/chains/a").json()["stages"]
    assert [stage["revision_deleted_at"] for stage in stages] == [1_700_000_000] * 2 + [None]


def test_a_revision_is_deleted_unless_it_is_protected(site: Site) -> None:
    """The head is; a deleted one is not found, and the message says what became of it."""
    site.published("a", "a")
    path = "/admin/chains/a/revisions"
    gone = site.http.delete(f"{path}/1")
    again = site.http.delete(f"{path}/sha256-a-1")
    head = site.http.delete(f"{path}/2")
    assert gone.json() == {"id": "sha256-a-1", "object": "revision", "deleted": True}
    assert (again.status_code, error_of(again)["code"]) == (404, "revision_not_found")
    assert "deleted on" in error_of(again)["message"]
    assert (head.status_code, error_of(head)["code"]) == (409, "revision_protected")


def test_a_chain_is_deleted_when_nothing_needs_it(site: Site) -> None:
    """An unfinished stage does."""
    site.published("a")
    stage = site.queued("b")
    assert site.http.delete("/admin/chains/a").json() == {
        "id": "a",
        "object": "chain",
        "deleted": True,
    }
    busy = site.http.delete("/admin/chains/b")
    assert (busy.status_code, error_of(busy)["code"]) == (409, "revision_protected")
    site.http.post(f"/admin/stages/{stage}/cancel", json={})
    assert site.http.delete("/admin/chains/b").status_code == 200
    assert site.http.get("/admin/chains/b").status_code == 404


def test_labels_come_move_and_go(site: Site) -> None:
    """A label names one revision at a time."""
    site.published("a", "a")
    path = "/admin/chains/a/labels/stable"
    assert site.http.put(path, json={"revision": 1}).json()["labels"] == {"stable": 1}
    assert site.http.put(path, json={"revision": "2"}).json()["labels"] == {"stable": 2}
    assert site.http.delete(path).json()["labels"] == {}
    assert error_of(site.http.delete(path))["code"] == "revision_not_found"


@pytest.mark.parametrize("label", ["1", "1a", "a" * 64, "f0" * 32, "x" * 65, "\u00e9"])
def test_a_label_is_neither_a_number_nor_a_revision_id(site: Site, label: str) -> None:
    """Else a name could mean two revisions."""
    site.published("a")
    response = site.http.put(f"/admin/chains/a/labels/{label}", json={"revision": 1})
    assert response.status_code == 400
    assert error_of(response)["param"] == "label"


CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("DELETE", "/revisions/1", None),
    ("POST", "/rollback", {"revision": 1}),
    ("POST", "/fork", {"name": "x"}),
    ("POST", "/prune", {"keep_last": 1}),
    ("PUT", "/labels/x", {"revision": 1}),
    ("DELETE", "/labels/x", None),
]


@pytest.mark.parametrize(("method", "tail", "body"), CALLS)
@pytest.mark.parametrize("chain", ["nobody", "%00", "-a", "a:b", "a@1", "x" * 65, "%2e%2e", "a%0A"])
def test_a_name_that_no_chain_has_is_not_found(
    site: Site, method: str, tail: str, body: dict[str, Any] | None, chain: str
) -> None:
    """Whatever is in it."""
    response = site.http.request(method, f"/admin/chains/{chain}{tail}", json=body)
    assert (response.status_code, error_of(response)["code"]) == (404, "chain_not_found")


@pytest.mark.parametrize(
    ("method", "tail", "body", "param"),
    [
        ("POST", "/rollback", {}, "revision"),
        ("POST", "/rollback", {"revision": None}, "revision"),
        ("POST", "/rollback", {"revision": 0}, "revision"),
        ("POST", "/rollback", {"revision": "../1"}, "revision"),
        ("POST", "/rollback", {"revision": 1, "force": True}, "force"),
        ("POST", "/fork", {}, "name"),
        ("POST", "/fork", {"name": "a/b"}, "name"),
        ("POST", "/fork", {"name": "a:b"}, "name"),
        ("POST", "/prune", {}, "keep_last"),
        ("POST", "/prune", {"keep_last": -1}, "keep_last"),
        ("POST", "/prune", {"keep_last": True}, "keep_last"),
        ("POST", "/prune", {"keep_last": "1"}, "keep_last"),
        ("PUT", "/labels/1st", {"revision": 1}, "label"),
        ("PUT", "/labels/a%00", {"revision": 1}, "label"),
        ("PUT", "/labels/stable", {}, "revision"),
        ("DELETE", "/labels/1st", None, "label"),
        ("GET", "?all=1", None, "all"),
        ("DELETE", "?force=1", None, "force"),
    ],
)
def test_what_does_not_fit_a_chain_is_refused(
    site: Site, method: str, tail: str, body: dict[str, Any] | None, param: str
) -> None:
    """400 with the field; the chain stays as it is."""
    site.published("a", "a")
    before = site.behind.state.chains["a"]
    response = site.http.request(method, f"/admin/chains/a{tail}", json=body)
    assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert site.behind.state.chains["a"] == before


@pytest.mark.parametrize("revision", ["%00", "x" * 200, "%2e%2e", "-1", "7"])
def test_a_name_that_no_revision_has_is_not_found(site: Site, revision: str) -> None:
    """It is compared with what there is, and never part of a path."""
    site.published("a", "a")
    response = site.http.delete(f"/admin/chains/a/revisions/{revision}")
    assert (response.status_code, error_of(response)["code"]) == (404, "revision_not_found")
