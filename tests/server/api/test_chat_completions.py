"""``POST /v1/chat/completions``, whole and streamed, as OpenAI's clients expect it."""

from __future__ import annotations

import pytest

from server.core.messages import Sampling
from tests.fake_tokenizer import BEGIN
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import (
    BASE,
    PIRATE,
    REVISION,
    USER,
    events_of,
    said,
    serving,
)

pytestmark = pytest.mark.anyio


async def test_an_answer_has_exactly_the_reference_s_shape() -> None:
    """Clients read these fields and no others."""
    async with serving(FakeEngine(script=saying("hello"))) as server:
        response = await server.chat()
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": BASE,
        "system_fingerprint": "fp_test",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 21,
            "completion_tokens": 5,
            "total_tokens": 26,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_the_conversation_reaches_the_engine_through_the_template() -> None:
    """Roles and contents, ready for the assistant's turn."""
    async with serving() as server:
        system = {"role": "developer", "content": "be brief"}
        await server.chat(messages=[system, USER], max_tokens=1)
    (request,) = server.engine.submitted
    assert request.prompt[0] == BEGIN
    assert bytes(request.prompt[1:]) == b"<system>be brief\n<user>hi\n<assistant>"


async def test_the_base_and_an_adapter_differ_in_the_revision_alone() -> None:
    """The name decides what is added to the base, and is given back as it was asked for."""
    async with serving() as server:
        base = (await server.chat(max_tokens=1)).json()
        pirate = (await server.chat(model=PIRATE, max_tokens=1)).json()
    assert (base["model"], pirate["model"]) == (BASE, PIRATE)
    of_base, of_pirate = server.engine.submitted
    assert (of_base.revision, of_base.flow) == (None, "")
    assert (of_pirate.revision, of_pirate.flow) == (REVISION, "pirate")


async def test_the_priority_reaches_the_engine() -> None:
    """vLLM's field: a lower one is earlier, and 0 is what a request without it has."""
    async with serving() as server:
        for fields in ({"priority": -3}, {"priority": None}, {}):
            assert (await server.chat(**fields, max_tokens=1)).status_code == 200
            assert (await server.complete(**fields, max_tokens=1)).status_code == 200
    priorities = [request.priority for request in server.engine.submitted]
    assert priorities == [-3, -3, 0, 0, 0, 0]


async def test_every_sampling_field_reaches_the_engine() -> None:
    """A known parameter that is accepted has its effect."""
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": 1,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.1,
        "seed": -1,
        "logit_bias": {"65": 5, "0": -100},
        "logprobs": True,
        "top_logprobs": 4,
    }
    async with serving() as server:
        assert (await server.chat(**fields, max_tokens=1)).status_code == 200
    assert server.engine.submitted[0].sampling == Sampling(
        seed=2**64 - 1,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        presence_penalty=1,
        frequency_penalty=-1.5,
        repetition_penalty=1.1,
        logit_bias=((65, 5), (0, -100)),
        logprobs=4,
    )


async def test_absent_sampling_fields_have_the_reference_s_defaults() -> None:
    """Only the seed is drawn, another one for each request."""
    async with serving() as server:
        for _ in range(2):
            await server.chat(max_tokens=1)
    first, second = (request.sampling for request in server.engine.submitted)
    assert first == Sampling(seed=first.seed)
    assert 0 <= first.seed < 2**64
    assert first.seed != second.seed


async def test_keeping_no_probability_at_all_keeps_the_best_token() -> None:
    """top_p = 0 is allowed by the reference; engines take it for "off"."""
    async with serving() as server:
        await server.chat(top_p=0, max_tokens=1)
    sampling = server.engine.submitted[0].sampling
    assert (sampling.temperature, sampling.top_p) == (0.0, 1.0)


async def test_without_a_limit_a_row_gets_what_the_context_has_left() -> None:
    """As in the reference; a given limit is passed on."""
    async with serving() as server:
        await server.chat()
        await server.chat(max_completion_tokens=3)
    whole, limited = server.engine.submitted
    assert len(whole.prompt) + whole.max_tokens == 512
    assert limited.max_tokens == 3


async def test_a_text_that_reaches_its_limit_ends_by_length() -> None:
    """The client learns that it was cut."""
    async with serving() as server:
        choice = (await server.chat(max_tokens=4)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"]) == 4


async def test_the_text_ends_before_a_stop_string_and_so_does_the_row() -> None:
    """Generation stops; usage counts what was generated, cached tokens among it."""
    engine = FakeEngine(script=saying("one, two, three"))
    engine.cached_tokens = 7
    async with serving(engine) as server:
        body = (await server.chat(stop=["two", "zzz"])).json()
        stats = server.engine.stats()
    assert body["choices"][0]["message"]["content"] == "one, "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len("one, two")
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}
    assert stats.generated_tokens < len("one, two, three")


async def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    """Streaming changes when text arrives, not which."""
    async with serving(FakeEngine(script=saying("héllo 😀, stop here"))) as server:
        whole = (await server.chat(stop="stop")).json()
        stream = events_of((await server.chat(stop="stop", stream=True)).text)
    assert said(stream) == whole["choices"][0]["message"]["content"] == "héllo 😀, "
    assert stream[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_has_exactly_the_reference_s_chunks() -> None:
    """First the role, then content, then the reason, then usage without choices."""
    async with serving(FakeEngine(script=saying("ab"))) as server:
        response = await server.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    heads = [
        {name: event.pop(name) for name in ("id", "object", "created", "model")} for event in events
    ]
    assert all(head == heads[0] for head in heads)
    assert heads[0]["object"] == "chat.completion.chunk"
    assert heads[0]["model"] == BASE
    rest = {"system_fingerprint": "fp_test", "usage": None}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    role = {"role": "assistant", "content": "", "refusal": None}
    assert events == [
        {**rest, "choices": [{**choice, "delta": role}]},
        {**rest, "choices": [{**choice, "delta": {"content": "a"}}]},
        {**rest, "choices": [{**choice, "delta": {"content": "b"}}]},
        {**rest, "choices": [{**choice, "delta": {}, "finish_reason": "stop"}]},
        {
            "system_fingerprint": "fp_test",
            "choices": [],
            "usage": {
                "prompt_tokens": 21,
                "completion_tokens": 2,
                "total_tokens": 23,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        },
    ]


async def test_without_a_wish_for_usage_a_stream_has_none() -> None:
    """Older clients choke on a chunk without choices."""
    async with serving(FakeEngine(script=saying("ab"))) as server:
        events = events_of((await server.chat(stream=True)).text)
    assert all("usage" not in event and event["choices"] for event in events)


async def test_token_reports_carry_text_bytes_and_alternatives() -> None:
    """Whole and streamed reports are the same list."""
    asked = {"logprobs": True, "top_logprobs": 2, "max_tokens": 3}
    async with serving(FakeEngine(script=saying("a€"))) as server:
        whole = (await server.chat(**asked)).json()["choices"][0]["logprobs"]["content"]
        stream = events_of((await server.chat(**asked, stream=True)).text)
    streamed = [
        report
        for event in stream
        for report in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == whole
    assert whole[0] == {
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "a", "bytes": [97], "logprob": -0.5},
            {"token": "A", "bytes": [65], "logprob": -1.5},
        ],
    }
    assert [report["bytes"] for report in whole] == [[97], [0xE2], [0x82]]
    assert whole[1]["token"] == "\ufffd"


async def test_the_report_can_be_had_without_alternatives() -> None:
    """``logprobs: true`` alone."""
    async with serving() as server:
        choice = (await server.chat(logprobs=True, max_tokens=1)).json()["choices"][0]
    assert [report["top_logprobs"] for report in choice["logprobs"]["content"]] == [[]]


async def test_metadata_and_the_tier_come_back() -> None:
    """As the reference has it: the tier that was used, which here is the only one."""
    async with serving() as server:
        asked = {"metadata": {"job": "7"}, "service_tier": "flex", "max_tokens": 1}
        body = (await server.chat(**asked)).json()
        chunk = events_of((await server.chat(**asked, stream=True)).text)[0]
    assert (body["metadata"], body["service_tier"]) == ({"job": "7"}, "default")
    assert chunk["service_tier"] == "default"


async def test_an_undefined_field_is_named_in_the_answer_s_header() -> None:
    """It has no effect; a stream says so as well."""
    async with serving() as server:
        plain = await server.chat(max_tokens=1)
        whole = await server.chat(max_tokens=1, temprature=1)
        stream = await server.chat(max_tokens=1, temprature=1, stream=True)
    assert "x-chainlora-ignored" not in plain.headers
    for response in (whole, stream):
        assert response.status_code == 200
        assert response.headers["x-chainlora-ignored"] == "temprature"


async def test_a_request_longer_than_a_reading_block_is_answered_like_any_other() -> None:
    """Long bodies are read beside the event loop; the result is the same."""
    async with serving() as server:
        padding = {"pad": "x" * 100_000}
        response = await server.chat(max_tokens=1, **padding)
    assert response.status_code == 200
    assert response.headers["x-chainlora-ignored"] == "pad"


async def test_the_pin_lasts_as_long_as_the_request() -> None:
    """A revision in use must not be deleted, and must be free afterwards."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        async with server.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": PIRATE, "messages": [USER], "max_tokens": 2, "stream": True},
        ) as response:
            lines = response.aiter_lines()
            await anext(lines)
            assert server.pinned() == {REVISION: 1}
            server.engine.release()
            assert "data: [DONE]" in [line async for line in lines]
        await server.idle()
        assert server.pinned() == {}
