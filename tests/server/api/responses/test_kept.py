"""Responses after they were made: retrieved, gone on from, listed, cancelled, deleted, evicted."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseItemList

from tests.fakes import FakeEngine, saying
from tests.server.api.responses.asking import URL, answer, ask, checked, response, stream
from tests.server.api.serving import PIRATE, REVISION, Served, error_of, serving
from tests.server.api.strict import named_events, strictly

pytestmark = pytest.mark.anyio
HELLO = saying("hello")


async def retrieve(server: Served, response_id: str) -> httpx.Response:
    """The response as it is now."""
    return await server.http.get(f"{URL}/{response_id}")


async def cancel(server: Served, response_id: str) -> httpx.Response:
    """End a response that runs; the SDK sends no body, but says that it is JSON."""
    headers = {"content-type": "application/json"}
    return await server.http.post(f"{URL}/{response_id}/cancel", headers=headers)


def prompt_of(engine: FakeEngine) -> str:
    """What the last row was asked to continue."""
    return bytes(engine.submitted[-1].prompt[1:]).decode()


async def test_a_response_is_retrieved_as_it_was_answered() -> None:
    """Stored unless the request says otherwise, streamed or not."""
    async with serving(FakeEngine(script=HELLO)) as server:
        whole = await answer(server)
        streamed = (await stream(server))[-1]["response"]
        for body in (whole, streamed):
            assert (await retrieve(server, body["id"])).json() == body


async def test_a_response_that_is_not_to_be_stored_is_not() -> None:
    """Neither retrieved nor gone on from."""
    async with serving(FakeEngine(script=HELLO)) as server:
        body = await answer(server, store=False)
        gone = await retrieve(server, body["id"])
        after = await ask(server, previous_response_id=body["id"])
    assert (gone.status_code, error_of(gone)["code"]) == (404, "response_not_found")
    assert error_of(gone)["param"] == "response_id"
    assert (after.status_code, error_of(after)["code"]) == (400, "previous_response_not_found")
    assert error_of(after)["param"] == "previous_response_id"


async def test_a_conversation_goes_on_from_the_previous_response() -> None:
    """All that went in and came out, without the earlier instructions; the model may change."""
    async with serving(FakeEngine(script=HELLO)) as server:
        first = await answer(server, input="one", instructions="be brief")
        second = await answer(server, input="two", previous_response_id=first["id"])
        third = await answer(
            server,
            input="three",
            instructions="be calm",
            previous_response_id=second["id"],
            model=PIRATE,
        )
    assert third["previous_response_id"] == second["id"]
    assert prompt_of(server.engine) == (
        "<system>be calm\n<user>one\n<assistant>hello\n<user>two\n<assistant>hello\n<user>three\n"
        "<assistant>"
    )


async def test_what_was_deleted_is_not_used_any_more() -> None:
    """A conversation that went on from it says which link is missing."""
    async with serving(FakeEngine(script=HELLO)) as server:
        first = await answer(server)
        second = await answer(server, previous_response_id=first["id"])
        deleted = await server.http.delete(f"{URL}/{first['id']}")
        again = await server.http.delete(f"{URL}/{first['id']}")
        after = await ask(server, previous_response_id=second["id"])
        assert (await retrieve(server, second["id"])).status_code == 200
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    assert again.status_code == 404
    assert error_of(after)["code"] == "previous_response_not_found"
    assert first["id"] in error_of(after)["message"]


async def test_nothing_is_kept_where_nothing_may_be() -> None:
    """The answer itself is complete all the same."""
    async with serving(FakeEngine(script=HELLO), stored_response_bytes=0) as server:
        body = await answer(server)
        assert (await retrieve(server, body["id"])).status_code == 404


async def test_a_running_response_is_retrieved_as_far_as_it_is() -> None:
    """And cannot be gone on from yet."""
    async with serving(FakeEngine(script=HELLO)) as server:
        server.engine.hold()
        server.engine.step(2)
        asked = asyncio.create_task(stream(server))
        await server.engine.until(lambda: server.engine.stats().steps == 2)
        response_id = server.engine.submitted[0].request_id
        while not (now := (await retrieve(server, response_id)).json())["output"]:
            await asyncio.sleep(0)
        after = await ask(server, previous_response_id=response_id)
        server.engine.release()
        await asked
    assert now["status"] == now["output"][0]["status"] == "in_progress"
    strictly(Response, now)
    assert error_of(after)["param"] == "previous_response_id"
    assert "still runs" in error_of(after)["message"]


async def test_a_streamed_response_can_be_cancelled() -> None:
    """Its stream ends, with all that there was, and so does the row."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        body = response(model=PIRATE, stream=True)
        async with server.http.stream("POST", URL, json=body) as streamed:
            lines = streamed.aiter_lines()
            head = await anext(lines)
            response_id = server.engine.submitted[0].request_id
            cancelled = (await cancel(server, response_id)).json()
            text = "\n".join([head, *[line async for line in lines]])
        last = checked(named_events(text))[-1]
        await server.idle()
        kept = (await retrieve(server, response_id)).json()
        again = await cancel(server, response_id)
        assert server.pinned() == {}
    strictly(Response, cancelled)
    assert (cancelled["status"], cancelled["usage"]) == ("cancelled", None)
    assert (last["type"], last["response"]) == ("response.incomplete", kept)
    assert (kept["status"], kept["usage"]["output_tokens"]) == ("cancelled", 1)
    assert (again.status_code, again.json()) == (200, kept)


async def test_a_response_that_has_ended_cannot_be_cancelled() -> None:
    """Nor can one that never was."""
    async with serving(FakeEngine(script=HELLO)) as server:
        body = await answer(server)
        ended = await cancel(server, body["id"])
        unknown = await cancel(server, "resp_none")
    assert (ended.status_code, error_of(ended)["param"]) == (400, "response_id")
    assert unknown.status_code == 404


async def test_a_running_response_that_is_deleted_ends() -> None:
    """And is kept nowhere."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        asked = asyncio.create_task(ask(server))
        await server.engine.until(lambda: server.engine.stats().steps == 1)
        response_id = server.engine.submitted[0].request_id
        assert (await server.http.delete(f"{URL}/{response_id}")).status_code == 200
        assert (await asked).json()["status"] == "cancelled"
        assert (await retrieve(server, response_id)).status_code == 404


async def test_a_background_response_runs_on_by_itself() -> None:
    """It is answered once it is admitted, and retrieved until it has ended."""
    async with serving(FakeEngine(script=HELLO)) as server:
        server.engine.hold()
        body = await answer(server, background=True, model=PIRATE)
        assert (body["status"], body["background"]) == ("in_progress", True)
        assert server.pinned() == {REVISION: 1}
        server.engine.release()
        while (now := (await retrieve(server, body["id"])).json())["status"] == "in_progress":
            await asyncio.sleep(0)
        assert server.pinned() == {}
    assert (now["status"], now["output"][0]["content"][0]["text"]) == ("completed", "hello")


async def test_a_background_response_can_be_cancelled() -> None:
    """Its row ends."""
    async with serving() as server:
        server.engine.hold()
        body = await answer(server, background=True)
        cancelled = (await cancel(server, body["id"])).json()
        assert cancelled["status"] == "cancelled"
        assert server.engine.cancelled == [body["id"]]
        assert (await retrieve(server, body["id"])).json()["status"] == "cancelled"


async def test_a_background_response_that_fails_says_why() -> None:
    """Whoever retrieves it reads the error; one that is not admitted is an error at once."""
    async with serving() as server:
        server.engine.hold()
        body = await answer(server, background=True)
        server.engine.poison()
        while (now := (await retrieve(server, body["id"])).json())["status"] == "in_progress":
            await asyncio.sleep(0)
        refused = await ask(server, background=True)
    assert (now["status"], now["error"]["code"]) == ("failed", "server_error")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "engine_failed")


async def test_input_items_are_listed_page_by_page() -> None:
    """The newest first unless asked otherwise, each with an id; only the response's own."""
    items: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "three", "id": "msg_given"},
        {"role": "user", "content": "hi"},
    ]
    async with serving(FakeEngine(script=HELLO)) as server:
        first = await answer(server)
        body = await answer(server, input=items, previous_response_id=first["id"])
        url = f"{URL}/{body['id']}/input_items"
        whole = (await server.http.get(url)).json()
        ascending = (await server.http.get(url, params={"order": "asc"})).json()
        page = (await server.http.get(url, params={"limit": 2})).json()
        rest = (await server.http.get(url, params={"after": page["last_id"]})).json()
        wrong = [
            await server.http.get(url, params=params)
            for params in ({"limit": 0}, {"order": "up"}, {"after": "msg_none"})
        ]
    for listed in (whole, ascending, page, rest):
        strictly(ResponseItemList, listed)
    assert [item["role"] for item in whole["data"]] == ["user", "assistant", "system"]
    assert ascending["data"] == whole["data"][::-1]
    assert whole["data"][1]["id"] == "msg_given"
    assert whole["data"][0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    assert page["data"] + rest["data"] == whole["data"]
    assert [error_of(each)["param"] for each in wrong] == ["limit", "order", "after"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true", "stream"),
        ("starting_after=3", "starting_after"),
        ("include[]=message.output_text.logprobs", "include"),
    ],
)
async def test_what_cannot_be_had_of_a_kept_response_is_refused(query: str, param: str) -> None:
    """By its name."""
    async with serving(FakeEngine(script=HELLO)) as server:
        body = await answer(server)
        refused = await server.http.get(f"{URL}/{body['id']}?{query}")
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)
