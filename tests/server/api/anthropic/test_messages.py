"""``POST /v1/messages`` and ``/v1/messages/count_tokens``, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from anthropic.types import Message, MessageTokensCount

from server.core.messages import Sampling
from tests.fakes import FakeEngine, saying
from tests.server.api.anthropic.asking import ask, count, message, stream
from tests.server.api.serving import BASE, PIRATE, REVISION, USER, serving
from tests.server.api.strict import named_events, strictly

pytestmark = pytest.mark.anyio


def prompt_of(engine: FakeEngine) -> str:
    """What the last row was asked to continue."""
    return bytes(engine.submitted[-1].prompt[1:]).decode()


async def test_a_message_has_exactly_the_reference_s_shape() -> None:
    """Clients read these fields and no others."""
    async with serving(FakeEngine(script=saying("hello"))) as server:
        response = await ask(server)
    body = response.json()
    strictly(Message, body)
    assert response.status_code == 200
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": BASE,
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 21,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 5,
            "service_tier": "standard",
        },
    }


async def test_the_base_and_an_adapter_differ_in_the_revision_alone() -> None:
    """The name decides what is added to the base, and is given back as it was asked for."""
    async with serving() as server:
        models = [(await ask(server, model=name, max_tokens=1)).json() for name in (BASE, PIRATE)]
    assert [body["model"] for body in models] == [BASE, PIRATE]
    assert [row.revision for row in server.engine.submitted] == [None, REVISION]


async def test_the_conversation_reaches_the_engine_through_the_template() -> None:
    """The system prompt first, then the turns; text blocks of a turn are one text."""
    blocks = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    turns = [
        {"role": "user", "content": blocks},
        {"role": "assistant", "content": "three"},
        {"role": "system", "content": "be calm"},
        USER,
    ]
    async with serving() as server:
        await ask(server, system="be brief", messages=turns, max_tokens=1)
    assert prompt_of(server.engine) == (
        "<system>be brief\n<user>one two\n<assistant>three\n<system>be calm\n<user>hi\n<assistant>"
    )


async def test_the_system_prompt_may_be_blocks_with_marks_of_caching() -> None:
    """What coding agents send; prefixes are kept without the marks too."""
    mark = {"type": "ephemeral", "ttl": "1h"}
    system = [
        {"type": "text", "text": "be ", "cache_control": mark},
        {"type": "text", "text": "brief", "cache_control": {"type": "ephemeral"}},
    ]
    async with serving() as server:
        response = await ask(server, system=system, cache_control=mark, max_tokens=1)
    assert response.status_code == 200
    assert "x-chainlora-ignored" not in response.headers
    assert prompt_of(server.engine).startswith("<system>be brief\n")


async def test_turns_of_one_role_in_a_row_become_one() -> None:
    """As in the reference; many templates refuse them otherwise."""
    async with serving() as server:
        await ask(server, messages=[USER, {**USER, "content": "there"}], max_tokens=1)
    assert prompt_of(server.engine) == "<user>hi\n\nthere\n<assistant>"


async def test_sampling_fields_reach_the_engine_with_the_reference_s_defaults() -> None:
    """A known parameter that is accepted has its effect."""
    async with serving() as server:
        await ask(server, temperature=0.5, top_p=0.9, top_k=40, max_tokens=1)
        await ask(server, max_tokens=1)
        await ask(server, top_p=0, max_tokens=1)
    given, absent, none = [row.sampling for row in server.engine.submitted]
    assert given == Sampling(seed=given.seed, temperature=0.5, top_p=0.9, top_k=40)
    assert absent == Sampling(seed=absent.seed)
    assert (none.temperature, none.top_p) == (0.0, 1.0)
    assert given.seed != absent.seed


async def test_what_chat_completions_draw_by_is_taken_beside_the_reference() -> None:
    """By the same names, and with the same effect."""
    fields = {"seed": 7, "min_p": 0.1, "repetition_penalty": 1.2, "logit_bias": {"65": 5}}
    async with serving() as server:
        response = await ask(server, **fields, priority=-3, max_tokens=1)
        assert "x-chainlora-ignored" not in response.headers
        (row,) = server.engine.submitted
    assert row.sampling == Sampling(
        seed=7, min_p=0.1, repetition_penalty=1.2, logit_bias=((65, 5.0),)
    )
    assert row.priority == -3


async def test_the_message_says_which_sequence_stopped_it() -> None:
    """Generation stops, and the sequence is no part of the text."""
    async with serving(FakeEngine(script=saying("one, two, three"))) as server:
        body = (await ask(server, stop_sequences=["zzz", "two"])).json()
    assert body["content"] == [{"type": "text", "text": "one, "}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "two")
    assert body["usage"]["output_tokens"] == len("one, two")


async def test_a_message_that_reaches_its_limit_says_so() -> None:
    """Cut by the client's number."""
    async with serving() as server:
        body = (await ask(server, max_tokens=4)).json()
    assert (body["stop_reason"], body["usage"]["output_tokens"]) == ("max_tokens", 4)


async def test_a_limit_beyond_the_context_is_no_error() -> None:
    """Clients send the limit of large models; the message may fill what the context has left."""
    async with serving() as server:
        body = (await ask(server, max_tokens=32_000)).json()
        too_long = await ask(server, system="x" * 512)
    assert body["stop_reason"] == "model_context_window_exceeded"
    assert body["usage"]["input_tokens"] + body["usage"]["output_tokens"] == 512
    assert too_long.status_code == 400
    assert "context holds 512 tokens" in too_long.json()["error"]["message"]


async def test_an_empty_message_has_no_content() -> None:
    """Not an empty block."""
    async with serving(FakeEngine(script=saying(""))) as server:
        body = (await ask(server)).json()
        events = await stream(server)
    assert body["content"] == []
    assert [event["type"] for event in events] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]


async def test_tokens_read_from_the_cache_are_counted_apart() -> None:
    """Their sum is the prompt's length."""
    engine = FakeEngine(script=saying("hello"))
    engine.cached_tokens = 7
    async with serving(engine) as server:
        usage = (await ask(server)).json()["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (14, 7)


async def test_a_stream_has_exactly_the_reference_s_events() -> None:
    """In their order, with a ping among them."""
    async with serving(FakeEngine(script=saying("ab"))) as server:
        response = await ask(server, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    start, *events = named_events(response.text)
    body = start["message"]
    strictly(Message, body)
    assert (body["content"], body["stop_reason"]) == ([], None)
    assert body["usage"]["input_tokens"] == 21
    text = {"type": "text", "text": ""}
    usage = {
        "input_tokens": 21,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 2,
    }
    assert events == [
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]


async def test_a_stream_says_the_same_as_the_whole_message() -> None:
    """Streaming changes when text arrives, not which; every event is the SDK's."""
    async with serving(FakeEngine(script=saying("héllo 😀, stop here"))) as server:
        whole = (await ask(server, stop_sequences=["stop"])).json()
        events = await stream(server, stop_sequences=["stop"])
    deltas = [event["delta"]["text"] for event in events if "text" in event.get("delta", {})]
    assert "".join(deltas) == whole["content"][0]["text"] == "héllo 😀, "
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "stop"}


async def test_a_failure_within_a_stream_is_its_last_event() -> None:
    """In place of the end, with the request's id."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        body = message(stream=True)
        async with server.http.stream("POST", "/v1/messages", json=body) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "event: message_start"
            server.engine.poison()
            rest = "\n".join([line async for line in lines])
        request_id = response.headers["request-id"]
    assert "message_stop" not in rest
    assert '"type":"overloaded_error"' in rest
    assert f'"request_id":"{request_id}"' in rest


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_message_that_a_shutdown_cuts_is_an_error(streamed: bool) -> None:
    """No stop reason would tell that it is not whole."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        asked = asyncio.create_task(ask(server, stream=streamed))
        await server.engine.until(lambda: server.engine.stats().steps == 1)
        server.engine.cancel(server.engine.submitted[0].request_id)
        response = await asked
    assert "shutting down" in response.text
    assert response.status_code == (200 if streamed else 503)


async def test_a_closed_connection_ends_the_row() -> None:
    """Nobody reads on."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        body = message(model=PIRATE, stream=True)
        async with server.http.stream("POST", "/v1/messages", json=body) as response:
            await anext(response.aiter_lines())
            assert server.pinned() == {REVISION: 1}
        await server.idle()
        assert server.pinned() == {}
        assert server.engine.cancelled


async def test_counting_reads_the_prompt_and_generates_nothing() -> None:
    """The same number as ``usage`` has, for the base and for a chain."""
    async with serving() as server:
        counts = [await count(server, system="be brief", model=name) for name in (BASE, PIRATE)]
        usage = (await ask(server, system="be brief", max_tokens=1)).json()["usage"]
        assert len(server.engine.submitted) == 1
    for response in counts:
        assert strictly(MessageTokensCount, response.json()).input_tokens == usage["input_tokens"]


async def test_an_undefined_field_is_named_in_the_answer_s_header() -> None:
    """It has no effect, also deep inside and beside a stream."""
    odd = {"role": "user", "content": [{"type": "text", "text": "hi", "font": "serif"}]}
    fields: dict[str, Any] = {"temprature": 1, "messages": [odd], "max_tokens": 1}
    async with serving() as server:
        responses = [await ask(server, **fields), await ask(server, **fields, stream=True)]
        counted = await count(server, temprature=1)
    for response in responses:
        ignored = set(response.headers["x-chainlora-ignored"].split(", "))
        assert ignored == {"temprature", "messages[0].content[0].font"}
    assert counted.headers["x-chainlora-ignored"] == "temprature"
