"""The events of a stage: live, from anywhere, also after the end, and never twice."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.errors import StoreError
from adapters.states import StageState
from tests.live_server import LIMITS
from tests.server.api.admin.conftest import Site, serving
from tests.server.api.serving import error_of


def frames(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The events of a stream, field by field; comments and ``retry`` are left out."""
    frame: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not line and frame:
            yield frame
            frame = {}
        elif name in ("id", "event", "data"):
            frame[name] = value
    assert not frame, "the stream ends in the middle of an event"


def whole(site: Site, stage: str, **options: Any) -> list[dict[str, Any]]:
    """The events of a stream that ends."""
    with site.http.stream("GET", f"/admin/stages/{stage}/events", **options) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(frame["data"]) for frame in frames(response.iter_lines())]


def told(events: list[dict[str, Any]]) -> list[str]:
    """What each event says, in a word or two."""
    return [f"{event['kind']} {event['data'].get('state', '')}".strip() for event in events]


def test_an_event_has_an_id_a_kind_and_its_data(site: Site) -> None:
    """The same in the stream's own fields and in the object."""
    (stage,) = site.published("a")
    with site.http.stream("GET", f"/admin/stages/{stage}/events") as response:
        first = next(frames(response.iter_lines()))
    event = json.loads(first["data"])
    assert event == {
        "id": int(first["id"]),
        "object": "stage.event",
        "stage": stage,
        "created_at": 1_700_000_000,
        "kind": first["event"],
        "data": {"state": "queued"},
    }


def test_a_stream_tells_what_happens_and_ends_with_the_stage(site: Site) -> None:
    """Events come as they happen: nobody asks again, and the last state closes the stream."""
    stage, stages = site.queued(), site.behind.stages
    with site.http.stream("GET", f"/admin/stages/{stage}/events") as response:
        found = frames(response.iter_lines())
        assert json.loads(next(found)["data"])["data"] == {"state": "queued"}
        stages.wait_for_readers(1)
        stages.reach(stage, StageState.RUNNING)
        assert json.loads(next(found)["data"])["data"] == {"state": "running"}
        stages.step(stage, 1, 2)
        step = json.loads(next(found)["data"])
        assert (step["kind"], step["data"]["loss"]) == ("step", 1.5)
        stages.reach(stage, StageState.FAILED)
        assert json.loads(next(found)["data"])["data"] == {"state": "failed"}
        assert list(found) == []
    stages.wait_for_readers(0)


def test_other_stages_are_not_heard(site: Site) -> None:
    """Their events wake nobody else and appear nowhere else."""
    mine, other = site.queued("a"), site.queued("b")
    stages = site.behind.stages
    with site.http.stream("GET", f"/admin/stages/{mine}/events") as response:
        found = frames(response.iter_lines())
        next(found)
        stages.wait_for_readers(1)
        stages.succeed(other)
        stages.reach(mine, StageState.CANCELLED)
        assert {json.loads(frame["data"])["stage"] for frame in found} == {mine}


@pytest.mark.parametrize("by", ["header", "query", "both"])
def test_a_stream_goes_on_after_the_last_id_that_was_seen(site: Site, by: str) -> None:
    """Also after the end; a reconnecting browser keeps its query, so the header is the newer."""
    (stage,) = site.published("a")
    events = whole(site, stage)
    assert told(events) == ["state queued", "state running", "state evaluating", "state succeeded"]
    last = str(events[1]["id"])
    options: Mapping[str, Any] = {
        "header": {"headers": {"last-event-id": last}},
        "query": {"params": {"after": last}},
        "both": {"headers": {"last-event-id": last}, "params": {"after": "0"}},
    }[by]
    assert whole(site, stage, **options) == events[2:]


def test_who_has_seen_the_end_is_told_not_to_come_back(site: Site) -> None:
    """204 is what ends a browser's EventSource; it would reconnect for ever."""
    (stage,) = site.published("a")
    last = whole(site, stage)[-1]["id"]
    path = f"/admin/stages/{stage}/events"
    response = site.http.get(path, headers={"last-event-id": str(last)})
    assert (response.status_code, response.content) == (204, b"")


def test_more_events_than_one_look_gives_all_arrive_in_order(site: Site) -> None:
    """A long stage has thousands; none is lost at a batch's edge."""
    stage, stages = site.queued(), site.behind.stages
    for step in range(1000):
        stages.happen(stage, "step", step=step)
    stages.reach(stage, StageState.CANCELLED)
    ids = [event["id"] for event in whole(site, stage)]
    assert len(ids) == 1002
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "1" * 19, "%00"])
def test_an_id_that_no_event_has_is_refused(site: Site, last: str) -> None:
    """Starting from the beginning instead would tell everything twice."""
    (stage,) = site.published("a")
    path = f"/admin/stages/{stage}/events"
    header = site.http.get(path, headers={"last-event-id": last})
    query = site.http.get(f"{path}?after={last}")
    assert (header.status_code, error_of(header)["param"]) == (400, "Last-Event-ID")
    assert (query.status_code, error_of(query)["param"]) == (400, "after")


@pytest.mark.parametrize("query", ["stream=no", "stream=", "limit=5", "stream=false&limit=1001"])
def test_a_query_of_events_that_does_not_fit_is_refused(site: Site, query: str) -> None:
    """``limit`` belongs to the list form."""
    (stage,) = site.published("a")
    assert site.http.get(f"/admin/stages/{stage}/events?{query}").status_code == 400


def test_events_can_be_had_as_a_list(site: Site) -> None:
    """For programs that do not stream; oldest first, in pages."""
    (stage,) = site.published("a")
    path, query = f"/admin/stages/{stage}/events", {"stream": "false"}
    page = site.http.get(path, params={**query, "limit": 3}).json()
    after = page["data"][-1]["id"]
    rest = site.http.get(path, params={**query, "after": after}).json()
    assert (page["object"], page["has_more"], rest["has_more"]) == ("list", True, False)
    assert page["data"] + rest["data"] == whole(site, stage)


def test_a_reader_that_leaves_is_forgotten(site: Site) -> None:
    """Its subscription ends with it, and the stage does not notice."""
    stage, stages = site.queued(), site.behind.stages
    with site.http.stream("GET", f"/admin/stages/{stage}/events") as response:
        found = frames(response.iter_lines())  # a reader that nobody holds would be closed
        next(found)
        stages.wait_for_readers(1)
    stages.wait_for_readers(0)
    assert stages.succeed(stage).revision is not None


def test_a_failing_store_ends_the_stream_with_an_error_event(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is long gone; the body of an error response follows as an event."""
    stage, stages = site.queued(), site.behind.stages
    with site.http.stream("GET", f"/admin/stages/{stage}/events") as response:
        found = frames(response.iter_lines())
        next(found)
        stages.wait_for_readers(1)

        def broken(stage_id: str) -> None:
            raise StoreError("the database is gone")

        monkeypatch.setattr(stages, "get", broken)
        stages.happen(stage, "step", step=1)
        (last,) = found
    assert last["event"] == "error"
    assert json.loads(last["data"])["error"]["code"] == "store_error"
    stages.wait_for_readers(0)


def test_a_stream_ends_well_formed_when_the_server_stops(tmp_path: Path) -> None:
    """Not cut in the middle: the client reconnects after the last id and misses nothing."""
    closing = asyncio.Event()
    with serving(tmp_path, closing=closing) as site:
        stage = site.queued()
        with site.http.stream("GET", f"/admin/stages/{stage}/events") as response:
            found = frames(response.iter_lines())
            next(found)
            site.behind.stages.wait_for_readers(1)
            site.server.do(closing.set)
            assert list(found) == []
        late = whole(site, stage)
    assert late == []


def test_a_reader_that_does_not_read_is_cut(tmp_path: Path) -> None:
    """Its buffers are full and stay so; after ``send_timeout_s`` the subscription ends."""
    with serving(tmp_path, limits=replace(LIMITS, send_timeout_s=0.05)) as site:
        stage, stages = site.queued(), site.behind.stages
        port = httpx.URL(site.server.url).port
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port or 0))
            slow.sendall(
                f"GET /admin/stages/{stage}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            stages.wait_for_readers(1)
            for _ in range(40):
                stages.happen(stage, "warning", message="x" * 200_000)
            stages.wait_for_readers(0)
        assert site.http.get(f"/admin/stages/{stage}").status_code == 200


def test_events_from_any_thread_arrive(site: Site) -> None:
    """The trainer is no event loop."""
    stage, stages = site.queued(), site.behind.stages
    with site.http.stream("GET", f"/admin/stages/{stage}/events") as response:
        stages.wait_for_readers(1)
        threads = [
            threading.Thread(target=stages.happen, args=(stage, "step"), kwargs={"step": step})
            for step in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        stages.reach(stage, StageState.CANCELLED)
        events = [json.loads(frame["data"]) for frame in frames(response.iter_lines())]
    assert sorted(event["data"].get("step", -1) for event in events) == [-1, -1, *range(8)]
