"""The store of responses: what it keeps, and what makes room."""

from __future__ import annotations

import pytest

from server.api.responses import stored
from server.api.responses.stored import ResponseStore
from server.core.errors import PreviousResponseNotFound


def body(name: str, previous: str | None = None) -> dict[str, object]:
    """What the store looks at of a response; all are of one size but for ``previous``."""
    return {"id": name, "status": "completed", "previous_response_id": previous, "output": []}


SIZE = len('{"id":"a","status":"completed","previous_response_id":null,"output":[]}') + len("[]")


def holding(*names: str, count: int) -> ResponseStore:
    """A store for ``count`` such responses, which got these."""
    store = ResponseStore(count * SIZE)
    for name in names:
        store.keep(body(name), [])
    return store


def found(store: ResponseStore, names: str) -> str:
    """Those of ``names`` that are kept."""
    return "".join(name for name in names if store.get(name) is not None)


def test_the_oldest_makes_room() -> None:
    """Bytes are counted exactly."""
    assert found(holding("a", "b", "c", count=2), "abc") == "bc"


def test_what_was_used_stays_longer() -> None:
    """To read a response uses it."""
    store = holding("a", "b", count=2)
    store.get("a")
    store.keep(body("c"), [])
    assert found(store, "abc") == "ac"


def test_to_go_on_from_a_response_uses_all_that_it_goes_on_from() -> None:
    """A conversation lives or goes as one."""
    store = ResponseStore(3 * SIZE + 2)
    store.keep(body("a"), [])
    store.keep(body("b", previous="a"), [])
    store.keep(body("c"), [])
    assert [b'"id":"a"' in store.history("b")[0].body, len(store.history("b"))] == [True, 2]
    store.keep(body("d"), [])
    assert found(store, "abcd") == "abd"


def test_what_is_deleted_gives_its_bytes_back() -> None:
    """So does what is kept a second time under its id."""
    store = holding("a", "b", "b", count=2)
    assert store.delete("a")
    assert not store.delete("a")
    store.keep(body("c"), [])
    assert found(store, "abc") == "bc"


def test_what_is_larger_than_all_room_is_not_kept() -> None:
    """Nor does it push out what is."""
    store = holding("a", count=1)
    store.keep(body("b"), [{"text": "x" * SIZE}])
    assert found(store, "ab") == "a"


def test_the_number_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are."""
    monkeypatch.setattr(stored, "MOST", 2)
    assert found(holding("a", "b", "c", count=9), "abc") == "bc"


def test_a_missing_link_is_named() -> None:
    """With the response that was asked for."""
    store = ResponseStore(9 * SIZE)
    store.keep(body("b", previous="a"), [])
    with pytest.raises(PreviousResponseNotFound, match="'b' goes on from 'a', which is not kept"):
        store.history("b")
