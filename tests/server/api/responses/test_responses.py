"""``POST /v1/responses``, whole and streamed, as OpenAI's clients expect it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.core.messages import Sampling
from tests.fakes import FakeEngine, saying
from tests.server.api.responses.asking import LOGPROBS, URL, answer, ask, response, stream, text_of
from tests.server.api.serving import BASE, PIRATE, REVISION, serving

pytestmark = pytest.mark.anyio
HELLO = saying("hello")


def prompt_of(engine: FakeEngine) -> str:
    """What the last row was asked to continue."""
    return bytes(engine.submitted[-1].prompt[1:]).decode()


async def test_a_response_has_exactly_the_reference_s_shape() -> None:
    """Clients read these fields and no others."""
    async with serving(FakeEngine(script=HELLO)) as server:
        body = await answer(server)
    assert body.pop("id").startswith("resp_")
    assert body["output"][0].pop("id").startswith("msg_")
    assert isinstance(body.pop("created_at"), int)
    assert isinstance(body.pop("completed_at"), int)
    part = {"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}
    assert body == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": BASE,
        "output": [
            {"type": "message", "status": "completed", "role": "assistant", "content": [part]}
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 21,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 26,
        },
        "user": None,
    }


async def test_what_was_asked_for_comes_back() -> None:
    """The response is its own record."""
    asked = {
        "instructions": "be brief",
        "max_output_tokens": 7,
        "metadata": {"job": "7"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "temperature": 0.5,
        "top_p": 0.25,
        "user": "u",
    }
    async with serving(FakeEngine(script=HELLO)) as server:
        body = await answer(server, **asked, service_tier="flex", truncation="disabled")
    assert {name: body[name] for name in asked} == asked
    assert body["service_tier"] == "default"


async def test_the_base_and_an_adapter_differ_in_the_revision_alone() -> None:
    """The name decides what is added to the base, and is given back as it was asked for."""
    async with serving() as server:
        bodies = [await answer(server, model=name, max_output_tokens=1) for name in (BASE, PIRATE)]
    assert [body["model"] for body in bodies] == [BASE, PIRATE]
    assert [row.revision for row in server.engine.submitted] == [None, REVISION]


async def test_the_input_reaches_the_engine_through_the_template() -> None:
    """Instructions first, then the messages; parts of a message are one text."""
    parts = [{"type": "input_text", "text": "one "}, {"type": "input_text", "text": "two"}]
    past = {"type": "output_text", "text": "three", "annotations": []}
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "be calm"},
        {"type": "message", "role": "user", "content": parts},
        {"role": "assistant", "content": [past], "id": "msg_1", "status": "completed"},
        {"role": "user", "content": "hi"},
    ]
    async with serving() as server:
        await answer(server, instructions="be brief", input=items, max_output_tokens=1)
    assert prompt_of(server.engine) == (
        "<system>be brief\n<system>be calm\n<user>one two\n<assistant>three\n<user>hi\n<assistant>"
    )


async def test_sampling_fields_reach_the_engine_with_the_reference_s_defaults() -> None:
    """A known parameter that is accepted has its effect."""
    async with serving() as server:
        limit = {"max_output_tokens": 1}
        await ask(server, temperature=0.5, top_p=0.9, top_logprobs=3, include=[LOGPROBS], **limit)
        await ask(server, **limit)
        await ask(server, top_p=0, **limit)
    given, absent, none = [row.sampling for row in server.engine.submitted]
    assert given == Sampling(seed=given.seed, temperature=0.5, top_p=0.9, logprobs=3)
    assert absent == Sampling(seed=absent.seed)
    assert (none.temperature, none.top_p) == (0.0, 1.0)


async def test_what_chat_completions_draw_by_is_taken_beside_the_reference() -> None:
    """By the same names, and with the same effect."""
    fields: dict[str, Any] = {
        "seed": 7,
        "top_k": 3,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    async with serving() as server:
        given = await ask(server, **fields, priority=-3, max_output_tokens=1)
        assert "x-chainlora-ignored" not in given.headers
        (row,) = server.engine.submitted
    assert row.sampling == Sampling(**fields)
    assert row.priority == -3


async def test_a_response_that_reaches_its_limit_is_incomplete() -> None:
    """It says why, its item is incomplete too, and it has no time of completion."""
    async with serving() as server:
        body = await answer(server, max_output_tokens=4)
        events = await stream(server, max_output_tokens=4)
    assert body["status"] == body["output"][0]["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (len(text_of(body)), body["completed_at"]) == (4, None)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_stream_has_exactly_the_reference_s_events() -> None:
    """In their order, with what each of them points at."""
    async with serving(FakeEngine(script=saying("ab"))) as server:
        events = await stream(server)
    created, in_progress, added, *deltas, done, part_done, item_done, completed = [
        {name: value for name, value in event.items() if name != "sequence_number"}
        for event in events
    ]
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert (added["type"], added["output_index"]) == ("response.output_item.added", 0)
    item_id = added["item"]["id"]
    assert added["item"] == {
        "id": item_id,
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    at = {"item_id": item_id, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert deltas == [
        {"type": "response.content_part.added", **at, "part": part},
        {"type": "response.output_text.delta", **at, "delta": "a", "logprobs": []},
        {"type": "response.output_text.delta", **at, "delta": "b", "logprobs": []},
    ]
    assert done == {"type": "response.output_text.done", **at, "text": "ab", "logprobs": []}
    whole = {**part, "text": "ab"}
    assert part_done == {"type": "response.content_part.done", **at, "part": whole}
    item = {**added["item"], "status": "completed", "content": [whole]}
    assert item_done == {"type": "response.output_item.done", "output_index": 0, "item": item}
    assert completed["type"] == "response.completed"
    assert completed["response"]["output"] == [item]
    assert completed["response"]["usage"]["total_tokens"] == 23


async def test_a_stream_says_the_same_as_the_whole_response() -> None:
    """Streaming changes when text arrives, not which; token reports are the same too."""
    asked: dict[str, Any] = {"include": [LOGPROBS], "top_logprobs": 1}
    async with serving(FakeEngine(script=saying("héllo 😀"))) as server:
        whole = await answer(server, **asked)
        events = await stream(server, **asked)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    (done,) = [event for event in events if event["type"] == "response.output_text.done"]
    assert "".join(event["delta"] for event in deltas) == text_of(whole) == "héllo 😀"
    assert [report for event in deltas for report in event["logprobs"]] == done["logprobs"]
    reports = whole["output"][0]["content"][0]["logprobs"]
    assert reports == events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert reports[0] == {
        "token": "h",
        "bytes": [104],
        "logprob": -0.5,
        "top_logprobs": [{"token": "h", "bytes": [104], "logprob": -0.5}],
    }
    assert done["logprobs"][0] == {
        "token": "h",
        "logprob": -0.5,
        "top_logprobs": [{"token": "h", "logprob": -0.5}],
    }


async def test_an_empty_answer_is_a_message_without_text() -> None:
    """``output_text`` of the SDK is then empty, and the stream is whole."""
    async with serving(FakeEngine(script=saying(""))) as server:
        body = await answer(server)
        events = await stream(server)
    assert (body["status"], text_of(body)) == ("completed", "")
    assert events[-1]["response"]["status"] == "completed"


async def test_a_failure_within_a_stream_is_its_last_event() -> None:
    """The response says what went wrong, and what there was before."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        asked = asyncio.create_task(stream(server))
        await server.engine.until(lambda: server.engine.stats().steps == 1)
        server.engine.poison()
        failed = (await asked)[-1]
        assert failed["type"] == "response.failed"
        kept = (await server.http.get(f"{URL}/{failed['response']['id']}")).json()
    assert failed["response"] == kept
    assert (kept["status"], kept["error"]["code"]) == ("failed", "server_error")
    assert "device failed" in kept["error"]["message"]
    assert kept["output"][0]["status"] == "incomplete"


async def test_a_failure_before_the_first_byte_has_its_own_status() -> None:
    """Whole or streamed."""
    async with serving() as server:
        server.engine.poison()
        for streamed in (False, True):
            failed = await ask(server, stream=streamed)
            assert failed.status_code == 503
            assert failed.json()["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_that_a_shutdown_cuts_has_failed(streamed: bool) -> None:
    """It is not incomplete for a reason of the client's."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        asked = asyncio.create_task(ask(server, stream=streamed))
        await server.engine.until(lambda: server.engine.stats().steps == 1)
        server.engine.cancel(server.engine.submitted[0].request_id)
        given = await asked
    assert "shutting down" in given.text
    assert ("response.failed" in given.text) is streamed
    assert given.status_code == (200 if streamed else 503)


async def test_an_undefined_field_is_named_in_the_answer_s_header() -> None:
    """It has no effect, also deep inside and beside a stream."""
    items = [{"role": "user", "content": "hi", "mood": "good"}]
    fields: dict[str, Any] = {"temprature": 1, "input": items, "max_output_tokens": 1}
    async with serving() as server:
        for streamed in (False, True):
            given = await ask(server, **fields, stream=streamed)
            ignored = set(given.headers["x-chainlora-ignored"].split(", "))
            assert ignored == {"temprature", "input[0].mood"}


async def test_a_closed_connection_cancels_the_response() -> None:
    """The row ends and the pin is given back; what there was is kept as cancelled."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        body = response(model=PIRATE, stream=True)
        async with server.http.stream("POST", URL, json=body) as streamed:
            await anext(streamed.aiter_lines())
            assert server.pinned() == {REVISION: 1}
        await server.idle()
        assert server.pinned() == {}
        response_id = server.engine.submitted[0].request_id
        assert set(server.engine.cancelled) == {response_id}
        kept = (await server.http.get(f"{URL}/{response_id}")).json()
    assert (kept["status"], kept["output"][0]["status"]) == ("cancelled", "incomplete")
