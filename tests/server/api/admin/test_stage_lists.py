"""Lists of stages: pages, filters, and no query that is dropped in silence."""

from __future__ import annotations

import pytest

from tests.server.api.admin.conftest import Site
from tests.server.api.serving import error_of


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
