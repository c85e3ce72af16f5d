"""``POST /v1/completions``, whole and streamed, in the legacy shapes."""

from __future__ import annotations

import pytest

from tests.fake_tokenizer import BEGIN, VOCABULARY
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import BASE, PIRATE, REVISION, error_of, events_of, serving

pytestmark = pytest.mark.anyio


async def test_an_answer_has_exactly_the_reference_s_shape() -> None:
    """Clients read these fields and no others."""
    async with serving(FakeEngine(script=saying("hello"))) as server:
        body = (await server.complete()).json()
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": BASE,
        "system_fingerprint": "fp_test",
        "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_text_is_tokenised_and_token_ids_are_taken_as_they_are() -> None:
    """Ids carry their own beginning, or none."""
    async with serving() as server:
        await server.complete(prompt="hi", max_tokens=1)
        await server.complete(prompt=[104, 105], max_tokens=1, model=PIRATE)
    text, ids = server.engine.submitted
    assert text.prompt == (BEGIN, 104, 105)
    assert ids.prompt == (104, 105)
    assert ids.revision == REVISION


async def test_the_default_length_is_the_reference_s() -> None:
    """Sixteen tokens, unlike chat."""
    async with serving() as server:
        body = (await server.complete()).json()
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


async def test_a_fault_of_one_prompt_is_named_by_its_place() -> None:
    """The others were right, and none is run."""
    async with serving() as server:
        unknown = await server.complete(prompt=[[1], [2, VOCABULARY]])
        long = await server.complete(prompt=["a", "b" * 600])
        assert server.engine.submitted == []
    assert (unknown.status_code, error_of(unknown)["param"]) == (400, "prompt[1]")
    assert (long.status_code, error_of(long)["param"]) == (400, "prompt[1]")


async def test_more_prompts_than_the_queue_holds_are_refused_by_name() -> None:
    """Whatever the number of choices, the field at fault is the prompt's."""
    async with serving(queue_limit=3) as server:
        response = await server.complete(prompt=["a"] * 4)
        candidates = await server.complete(prompt=["a"] * 2, best_of=2)
        assert server.engine.submitted == []
    assert (response.status_code, error_of(response)["param"]) == (400, "prompt")
    assert (candidates.status_code, error_of(candidates)["param"]) == (400, "best_of")


@pytest.mark.parametrize("token", [VOCABULARY, 10**9, -1])
async def test_a_token_that_does_not_exist_is_refused(token: int) -> None:
    """The model would look it up beyond its embedding."""
    async with serving() as server:
        error = error_of(response := await server.complete(prompt=[1, token]))
        assert server.engine.submitted == []
    assert response.status_code == 400
    assert error["param"] == "prompt"
    assert f"no token {token}" in error["message"]


async def test_reports_are_four_parallel_lists() -> None:
    """The drawn token is among its alternatives, and broken text is named by its bytes."""
    async with serving(FakeEngine(script=saying("a€"))) as server:
        choice = (await server.complete(logprobs=1, max_tokens=3)).json()["choices"][0]
        none = (await server.complete(logprobs=0, max_tokens=1)).json()["choices"][0]
    assert choice["logprobs"] == {
        "tokens": ["a", "bytes:\\xe2", "bytes:\\x82"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": -0.5}, {"bytes:\\xe2": -0.5}, {"bytes:\\x82": -0.5}],
        "text_offset": [0, 1, 1],
    }
    assert none["logprobs"]["top_logprobs"] == [{"a": -0.5}]


async def test_a_stream_is_made_of_completions() -> None:
    """Text, then the reason, then usage without choices."""
    asked = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": 2}
    async with serving(FakeEngine(script=saying("ab"))) as server:
        events = events_of((await server.complete(**asked)).text)
    assert {event["object"] for event in events} == {"text_completion"}
    assert len({event["id"] for event in events}) == 1
    *choices, usage = events
    assert [choice["choices"][0]["text"] for choice in choices] == ["a", "b", ""]
    assert [choice["choices"][0]["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert [choice["usage"] for choice in choices] == [None] * 3
    assert choices[1]["choices"][0]["logprobs"]["text_offset"] == [1]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)


async def test_a_stop_string_ends_the_text() -> None:
    """Whatever the tokens are that it is made of."""
    async with serving(FakeEngine(script=saying("one\n\ntwo"))) as server:
        choice = (await server.complete(stop="\n\n")).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one", "stop")
