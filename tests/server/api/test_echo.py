"""``echo``, scoring and ``best_of`` of ``POST /v1/completions``."""

from __future__ import annotations

from typing import Any

import pytest

from server.core.messages import Generate
from server.core.ports import Detokenizer
from tests.fake_tokenizer import BEGIN, END, FakeTokenizer
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import error_of, events_of, serving

pytestmark = pytest.mark.anyio


async def test_an_echo_is_the_prompt_before_the_completion() -> None:
    """Also of token ids, whatever kind of list they come in."""
    async with serving(FakeEngine(script=saying("lo"))) as server:
        for prompt, texts in (
            ("hel", ["hello"]),
            (["hel", "x"], ["hello", "xlo"]),
            ([104, 101, 108], ["hello"]),
            ([[104], [105]], ["hlo", "ilo"]),
        ):
            body = (await server.complete(prompt=prompt, echo=True)).json()
            assert [choice["text"] for choice in body["choices"]] == texts
            assert [choice["logprobs"] for choice in body["choices"]] == [None] * len(texts)
        assert {request.prompt_logprobs for request in server.engine.submitted} == {None}


async def test_every_choice_is_echoed() -> None:
    """Each is a whole text."""
    async with serving(FakeEngine(script=saying("!"))) as server:
        body = (await server.complete(prompt="hi", echo=True, n=2)).json()
    assert [choice["text"] for choice in body["choices"]] == ["hi!", "hi!"]


async def test_a_report_covers_the_echoed_prompt() -> None:
    """The first token has nothing before it; a begin token has no place in the text as sent."""
    async with serving(FakeEngine(script=saying("c"))) as server:
        asked = {"echo": True, "logprobs": 1}
        text = (await server.complete(prompt="ab", **asked)).json()["choices"][0]["logprobs"]
        ids = (await server.complete(prompt=[97, 98], **asked)).json()["choices"][0]["logprobs"]
        assert [request.prompt_logprobs for request in server.engine.submitted] == [1, 1]
    assert text == {
        "tokens": ["", "a", "b", "c"],
        "token_logprobs": [None, -0.5, -0.5, -0.5],
        "top_logprobs": [None, {"a": -0.5}, {"b": -0.5}, {"c": -0.5}],
        "text_offset": [0, 0, 1, 2],
    }
    assert ids == {name: column[1:] for name, column in text.items()} | {
        "token_logprobs": [None, -0.5, -0.5],
        "top_logprobs": [None, {"b": -0.5}, {"c": -0.5}],
    }


async def test_an_end_token_has_a_place_in_the_report_and_none_in_the_text() -> None:
    """Harnesses take the last token of a report for the one that they had generated."""
    asked = {"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 3}
    async with serving(FakeEngine(script=lambda _: [98, END])) as server:
        whole = (await server.complete(**asked)).json()["choices"][0]
        events = events_of((await server.complete(**asked, stream=True)).text)
        chat = (await server.chat(logprobs=True)).json()["choices"][0]
        bare = (await server.complete(prompt="a")).json()["choices"][0]
    assert whole["text"] == "ab"
    assert whole["finish_reason"] == "stop"
    assert whole["logprobs"]["text_offset"] == [0, 0, 1, 2]
    assert whole["logprobs"]["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    assert events[-1]["choices"][0]["logprobs"]["text_offset"] == [2]
    assert [report["token"] for report in chat["logprobs"]["content"]] == ["b"]
    assert bare["logprobs"] is None


async def test_a_text_can_be_scored_without_a_completion() -> None:
    """``max_tokens: 0`` reads the prompt and generates nothing."""
    async with serving() as server:
        asked = {"echo": True, "logprobs": 0, "max_tokens": 0}
        body = (await server.complete(prompt=["ab", "c"], **asked)).json()
        bare = (await server.complete(max_tokens=0)).json()
        assert server.engine.stats().generated_tokens == 0
    assert [choice["text"] for choice in body["choices"]] == ["ab", "c"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length"] * 2
    assert body["choices"][0]["logprobs"]["token_logprobs"] == [None, -0.5, -0.5]
    assert body["usage"]["completion_tokens"] == 0
    assert body["usage"]["total_tokens"] == 5
    assert bare["choices"][0]["text"] == ""


async def test_a_prompt_that_fills_the_context_can_be_scored() -> None:
    """There is no room for a token, and none is asked for."""
    async with serving() as server:
        full = await server.complete(prompt="x" * 511, max_tokens=0, echo=True)
        more = await server.complete(prompt="x" * 511, max_tokens=1)
    assert full.status_code == 200
    assert error_of(more)["code"] == "context_length_exceeded"


async def test_a_stream_echoes_before_it_goes_on() -> None:
    """Streaming changes when text arrives, not which, nor its reports."""
    asked = {"prompt": "a\u20ac", "echo": True, "logprobs": 2}
    async with serving(FakeEngine(script=saying("b"))) as server:
        whole = (await server.complete(**asked)).json()["choices"][0]
        events = events_of((await server.complete(**asked, stream=True)).text)
    choices = [event["choices"][0] for event in events]
    assert [choice["text"] for choice in choices] == ["a\u20ac", "b", ""]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    joined = {
        name: [one for choice in choices if choice["logprobs"] for one in choice["logprobs"][name]]
        for name in whole["logprobs"]
    }
    assert joined == whole["logprobs"]


async def test_a_stop_string_in_the_prompt_stops_nothing() -> None:
    """Only what is generated is searched."""
    async with serving(FakeEngine(script=saying("one.two"))) as server:
        body = (await server.complete(prompt="a.b", echo=True, stop=".")).json()
    assert body["choices"][0]["text"] == "a.bone"


async def test_a_character_that_the_prompt_begins_is_ended_by_the_completion() -> None:
    """Ids may end within one."""
    euro = "\u20ac".encode()
    async with serving(FakeEngine(script=lambda _: euro[2:])) as server:
        body = (await server.complete(prompt=[97, *euro[:2]], echo=True, logprobs=0)).json()
    choice = body["choices"][0]
    assert choice["text"] == "a\u20ac"
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 1]


async def test_a_text_is_echoed_as_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokenizers rewrite what they read, and spell it otherwise."""

    class Upper:
        def add(self, token: int) -> str:
            return chr(token).upper() + "~" if token < BEGIN else ""

        def finish(self) -> str:
            return ""

    def detokenizer(_: FakeTokenizer) -> Detokenizer:
        return Upper()

    monkeypatch.setattr(FakeTokenizer, "detokenizer", detokenizer)
    async with serving(FakeEngine(script=saying("c"))) as server:
        body = (await server.complete(prompt="ab", echo=True, logprobs=0)).json()
    choice = body["choices"][0]
    assert choice["text"] == "abC~"
    assert choice["logprobs"]["text_offset"] == [0, 0, 2, 2]


async def test_the_best_candidates_are_those_of_the_highest_mean_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranked by token, so that a short text has no advantage; an empty one comes last."""
    texts = {0: b"", 1: b"zz", 2: b"aaaa", 3: b"m"}

    def script(request: Generate) -> bytes:
        return texts[len(server.engine.submitted) % 4]

    async with serving() as server:
        server.engine.script = script
        monkeypatch.setattr("tests.fake_rows.logprob_of", lambda token: float(ord("a") - token - 1))
        asked: dict[str, Any] = {"best_of": 4, "prompt": "hi"}
        body = (await server.complete(**asked, n=3)).json()
        echoed = (await server.complete(**asked, echo=True, logprobs=0)).json()
        sampled = [request.sampling.logprobs for request in server.engine.submitted]
    assert [choice["text"] for choice in body["choices"]] == ["aaaa", "m", "zz"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["logprobs"] for choice in body["choices"]] == [None] * 3
    assert body["usage"]["completion_tokens"] == 7, "every candidate is paid for"
    assert body["usage"]["prompt_tokens"] == 3
    assert echoed["choices"][0]["text"] == "hiaaaa"
    assert sampled == [0] * 8


async def test_each_prompt_has_its_own_best() -> None:
    """They do not compete."""
    async with serving() as server:
        body = (await server.complete(prompt=["a", "b"], best_of=3, n=1, echo=True)).json()
        assert len(server.engine.submitted) == 6
    assert [choice["text"][0] for choice in body["choices"]] == ["a", "b"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
