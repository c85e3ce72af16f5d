"""What the server says about itself: models, health, the engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from urllib.parse import quote

import pytest

from server.core.ports import Model
from tests.server.api.serving import BASE, PIRATE, error_of, serving
from tests.static_catalog import StaticCatalog

pytestmark = pytest.mark.anyio


async def test_models_are_the_base_and_every_adapter() -> None:
    """Without any model hub or its cache (FACTS 4, case 11)."""
    async with serving() as server:
        body = (await server.http.get("/v1/models")).json()
    assert body["object"] == "list"
    base, pirate = body["data"]
    assert isinstance(base.pop("created"), int)
    assert base == {
        "id": BASE,
        "object": "model",
        "owned_by": "chainlora",
        "root": None,
        "parent": None,
    }
    assert (pirate["id"], pirate["parent"], pirate["root"]) == (PIRATE, BASE, "pirate")


async def test_a_long_list_is_made_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is the number of chains; requests that stream meanwhile must not notice."""
    threads: list[int] = []
    real = StaticCatalog.models

    def noted(self: StaticCatalog, *, pins: bool = False) -> Sequence[Model]:
        threads.append(threading.get_ident())
        return real(self, pins=pins)

    async with serving() as server:
        monkeypatch.setattr(StaticCatalog, "models", noted)
        assert (await server.http.get("/v1/models")).status_code == 200
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("plain", [True, False])
async def test_every_listed_id_can_be_looked_up_and_used(plain: bool) -> None:
    """Ids hold slashes and colons, which clients may or may not escape."""
    async with serving() as server:
        rows = (await server.http.get("/v1/models")).json()["data"]
        for row in rows:
            path = row["id"] if plain else quote(row["id"], safe="")
            assert (await server.http.get(f"/v1/models/{path}")).json() == row
            assert (await server.chat(model=row["id"], max_tokens=1)).status_code == 200


@pytest.mark.parametrize("name", ["other", f"{BASE}:nobody", f"{BASE}:pirate@3", f"{BASE}/x", ""])
async def test_an_unknown_model_is_a_404_wherever_it_is_named(name: str) -> None:
    """Never the base's answer, and no stream is started (FACTS 4, case 4)."""
    async with serving() as server:
        responses = [await server.http.get(f"/v1/models/{name}")]
        if name:
            responses += [
                await server.chat(model=name),
                await server.chat(model=name, stream=True),
                await server.complete(model=name),
            ]
        assert server.engine.submitted == []
    for response in responses:
        assert response.status_code == 404
        error = error_of(response)
        assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("name", [f"{BASE}:pirate,judge", f"{BASE}:pirate:judge"])
async def test_two_adapters_in_a_name_are_a_400_with_the_reason(name: str) -> None:
    """Parameters would be applied twice."""
    async with serving() as server:
        response = await server.chat(model=name, stream=True)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "two_adapters"
    assert "add their parameters twice" in error["message"]


async def test_a_running_server_is_live_and_ready() -> None:
    """What a process supervisor and a load balancer ask."""
    async with serving() as server:
        live = await server.http.get("/health/live")
        ready = await server.http.get("/health/ready")
    assert (live.status_code, ready.status_code) == (200, 200)
    assert ready.json() == {"status": "ready"}


async def test_a_failed_device_is_live_but_not_ready() -> None:
    """The process is about to be replaced; no new request should come."""
    async with serving() as server:
        server.engine.poison()
        live = await server.http.get("/health/live")
        ready = await server.http.get("/health/ready")
    assert live.status_code == 200
    assert ready.status_code == 503
    assert error_of(ready)["code"] == "engine_failed"


async def test_a_draining_server_is_not_ready() -> None:
    """A load balancer must look elsewhere."""
    async with serving() as server:
        await server.application.stop()
        ready = await server.http.get("/health/ready")
    assert ready.status_code == 503
    assert error_of(ready)["code"] == "shutting_down"


async def test_the_engine_page_shows_statistics_facts_and_settings() -> None:
    """Device and BLAS come from the loader; settings are those in force."""
    async with serving(queue_limit=7) as server:
        await server.chat(max_tokens=3)
        body = (await server.http.get("/admin/engine")).json()
    assert body["stats"]["state"] == "ready"
    assert body["stats"]["generated_tokens"] == 3
    assert body["facts"]["device"] == "fake"
    assert body["facts"]["settings"]["queue_limit"] == 7
