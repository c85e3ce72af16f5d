"""Several texts of one request: ``n`` choices, whole and streamed, and how they end together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from server.core.errors import AdapterUnavailable
from server.core.messages import Generate
from tests.fakes import FakeEngine, letters
from tests.server.api.serving import (
    PIRATE,
    REVISION,
    USER,
    chat,
    error_of,
    events_of,
    serving,
)

pytestmark = pytest.mark.anyio
STREAM_OR_NOT = pytest.mark.parametrize("stream", [False, True])


def counting(request: Generate) -> bytes:
    """The first row says one letter, the next two, and so on."""
    number = int(request.request_id.rpartition("-")[2]) if request.request_id[-2] == "-" else 0
    return b"abcdefgh"[: number + 1]


def texts_of(events: list[dict[str, Any]]) -> dict[int, str]:
    """What each choice of a chat stream says."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            said = choice["delta"].get("content") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + said
    return texts


async def test_each_choice_has_its_place_and_usage_counts_the_prompt_once() -> None:
    """As the reference bills it: every generated token, but one prompt."""
    async with serving(FakeEngine(script=counting)) as server:
        body = (await server.chat(n=3)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "ab", "abc"]
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (21, 6)
    assert usage["total_tokens"] == 27


async def test_choices_differ_and_the_first_is_that_of_a_request_for_one() -> None:
    """Each draws by a seed of its own, a function of the request's."""
    async with serving() as server:
        one = (await server.chat(seed=7, max_tokens=8)).json()["choices"]
        many = (await server.chat(seed=7, max_tokens=8, n=4)).json()["choices"]
        again = (await server.chat(seed=7, max_tokens=8, n=4)).json()["choices"]
        seeds = [request.sampling.seed for request in server.engine.submitted[1:5]]
    assert many[0] == one[0]
    assert again == many
    assert len({choice["message"]["content"] for choice in many}) == 4
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)


async def test_a_stream_interleaves_its_choices_and_says_what_the_whole_answer_says() -> None:
    """A role, an end and an order for each; usage once, behind all of them."""
    asked = {"n": 3, "seed": 5, "max_tokens": 4}
    async with serving() as server:
        whole = (await server.chat(**asked)).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *events, usage = events_of((await server.chat(**asked, **options)).text)
    said = {choice["index"]: choice["message"]["content"] for choice in whole["choices"]}
    assert texts_of(events) == said
    assert [event["choices"][0]["delta"].get("role") for event in events[:4]] == [
        *["assistant"] * 3,
        None,
    ]
    order = [event["choices"][0]["index"] for event in events[3:]]
    assert sorted(order) != order, "the choices came one after the other"
    ends = [event["choices"][0] for event in events if event["choices"][0]["finish_reason"]]
    assert sorted(end["index"] for end in ends) == [0, 1, 2]
    assert {end["finish_reason"] for end in ends} == {"length"}
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


async def test_a_stop_string_ends_one_choice_alone() -> None:
    """The others go on."""

    def script(request: Generate) -> Any:
        return b"one, two" if request.request_id.endswith("-1") else letters(request)

    async with serving(FakeEngine(script=script)) as server:
        body = (await server.chat(n=2, stop=", ", max_tokens=20)).json()
    first, second = body["choices"]
    assert (first["finish_reason"], len(first["message"]["content"])) == ("length", 20)
    assert (second["finish_reason"], second["message"]["content"]) == ("stop", "one")


async def test_all_choices_have_one_pin() -> None:
    """They answer by one revision, which is free when the last has ended."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        body = {"model": PIRATE, "messages": [USER], "n": 3, "max_tokens": 2, "stream": True}
        async with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            assert server.pinned() == {REVISION: 1}
            server.engine.release()
            assert "data: [DONE]" in [line async for line in lines]
        await server.idle()
        assert server.pinned() == {}
    assert {request.revision for request in server.engine.submitted} == {REVISION}


@STREAM_OR_NOT
async def test_a_client_that_goes_away_ends_all_its_choices(stream: bool) -> None:
    """A waiting one as well as those that run."""
    async with serving(FakeEngine(max_rows=2)) as server:
        server.engine.hold()
        server.engine.step()
        request = server.http.build_request(
            "POST", "/v1/chat/completions", json=chat(model=PIRATE, n=4, stream=stream)
        )
        asking = asyncio.create_task(server.http.send(request, stream=True))
        await server.engine.until(lambda: server.engine.stats().decoding == 2)
        if stream:
            await (await asking).aclose()
        else:
            asking.cancel()
            await asyncio.wait([asking])
        await server.idle()
        assert (server.engine.stats().decoding, server.engine.stats().waiting) == (0, 0)
        assert server.pinned() == {}
    assert len(set(server.engine.cancelled)) == 4


@STREAM_OR_NOT
async def test_one_deadline_ends_all_choices(stream: bool) -> None:
    """The request's life is one."""
    async with serving(request_timeout_s=0.05) as server:
        server.engine.hold()
        response = await server.chat(n=3, stream=stream)
        await server.idle()
        assert server.engine.stats().waiting == 0
    assert (response.status_code, error_of(response)["code"]) == (408, "deadline_exceeded")


@STREAM_OR_NOT
async def test_a_choice_that_fails_fails_the_request_and_ends_the_others(stream: bool) -> None:
    """Half an answer would be taken for a whole one."""
    engine = FakeEngine()
    engine.refusals[REVISION] = AdapterUnavailable("the adapter's file is gone", param="model")
    async with serving(engine) as server:
        response = await server.chat(model=PIRATE, n=3, stream=stream)
        await server.idle()
        assert server.pinned() == {}
        assert server.engine.stats().waiting == 0
    assert (response.status_code, error_of(response)["code"]) == (503, "adapter_unavailable")


@STREAM_OR_NOT
async def test_a_queue_that_fills_up_refuses_all_choices(stream: bool) -> None:
    """Every choice counts, and those that found a place leave it."""
    async with serving(FakeEngine(queue_limit=4)) as server:
        server.engine.hold()
        response = await server.chat(n=5, stream=stream)
        assert server.engine.stats().waiting == 0
        server.engine.release()
        assert (await server.chat(n=4, max_tokens=1)).status_code == 200
        assert server.pinned() == {}
    assert (response.status_code, error_of(response)["code"]) == (429, "queue_full")


async def test_a_request_for_many_texts_lets_others_go_before_most_of_them() -> None:
    """Else whoever asks for a hundred keeps everybody of its chain waiting for all of them."""
    async with serving(FakeEngine(max_rows=1, queue_limit=32)) as server:
        server.engine.hold()
        many = asyncio.create_task(server.chat(n=16, max_tokens=1, priority=3))
        await server.engine.until(lambda: server.engine.stats().waiting == 16)
        one = asyncio.create_task(server.chat(max_tokens=1, priority=3))
        await server.engine.until(lambda: server.engine.stats().waiting == 17)
        server.engine.step(10)
        assert (await one).status_code == 200
        assert not many.done()
        server.engine.release()
        assert (await many).status_code == 200
    assert [request.priority for request in server.engine.submitted] == [3] * 8 + [4] * 8 + [3]


async def test_more_choices_than_the_queue_ever_holds_are_no_matter_of_waiting() -> None:
    """429 would make the client try for ever."""
    async with serving(queue_limit=8) as server:
        response = await server.chat(n=9)
        assert server.engine.submitted == []
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "n")
    assert "9 texts" in error["message"]
    assert "8" in error["message"]


async def test_a_shutdown_cuts_every_choice_and_says_so() -> None:
    """The stream ends by itself; nobody waits for a choice that will not come."""
    async with serving() as server:
        server.engine.hold()
        server.engine.step()
        body = chat(n=2, stream=True)
        async with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            stopping = asyncio.create_task(server.engine.stop(grace_s=0))
            events = events_of((await response.aread()).decode())
            await stopping
    ends = [event for event in events if event["choices"][0]["finish_reason"]]
    assert [end["chainlora"] for end in ends] == [{"ended_by": "shutdown"}] * 2


async def test_choices_of_completions_stand_beside_those_of_other_prompts() -> None:
    """``prompt * n + choice``, and each prompt's are what it gets alone."""
    prompts = ["ab", "cd", "ef"]
    async with serving() as server:
        asked = {"n": 2, "seed": 3, "max_tokens": 5}
        together = (await server.complete(prompt=prompts, **asked)).json()
        alone = [(await server.complete(prompt=each, **asked)).json() for each in prompts]
    assert [choice["index"] for choice in together["choices"]] == list(range(6))
    assert [choice["text"] for choice in together["choices"]] == [
        choice["text"] for each in alone for choice in each["choices"]
    ]
    usage = together["usage"]
    assert usage["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in alone) == 9
    assert usage["completion_tokens"] == 30


async def test_a_request_for_one_choice_is_the_row_it_always_was() -> None:
    """``n: 1`` is no other request than one without ``n``."""
    async with serving() as server:
        await server.chat(seed=1, max_tokens=1)
        await server.chat(seed=1, max_tokens=1, n=1)
    first, second = server.engine.submitted
    assert replace(second, request_id=first.request_id) == first
    assert first.flow == ""
