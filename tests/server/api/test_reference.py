"""What we answer and take, held to the official SDK's own types, field by field."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from openai.types import Completion
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionAssistantMessageParam,
    ChatCompletionChunk,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)

from server.api.schema.chat import ChatMessage, TextPart
from server.api.schema.fields import Schema, StreamOptions
from server.core.errors import UnsupportedField
from tests.fake_tokenizer import END
from tests.fakes import FakeEngine, saying
from tests.server.api.requests import read_chat
from tests.server.api.serving import chat, events_of, serving
from tests.server.api.strict import strictly

pytestmark = pytest.mark.anyio

REPORTED = {"logprobs": True, "top_logprobs": 2}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "choices": {"n": 3, "seed": 1},
    "reported": REPORTED,
    "everything": {**REPORTED, "n": 2, "stop": "l", "service_tier": "auto", "user": "u"},
}


@pytest.mark.parametrize("name", ASKED)
async def test_chat_completions_are_the_reference_s(name: str) -> None:
    """No field missing, none unknown, each of its type; whole, streamed and with usage."""
    asked = {"max_tokens": 4, **ASKED[name]}
    async with serving(FakeEngine(script=saying("h€llo"))) as server:
        whole = (await server.chat(**asked)).json()
        plain = events_of((await server.chat(**asked, stream=True)).text)
        used = events_of((await server.chat(**asked, **USAGE)).text)
    completion: ChatCompletion = strictly(ChatCompletion, whole)
    chunks: list[ChatCompletionChunk] = [strictly(ChatCompletionChunk, each) for each in used]
    assert [strictly(ChatCompletionChunk, each).usage for each in plain] == [None] * len(plain)
    assert chunks.pop().usage == completion.usage
    assert len(chunks) == len(plain)
    said = ["".join(c.delta.content or "" for h in chunks for c in h.choices if c.index == i)
            for i in range(asked.get("n", 1))]  # fmt: skip
    assert said == [choice.message.content for choice in completion.choices]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"prompt": ["a", "b"], "n": 2},
        {"logprobs": 2},
        {"echo": True},
        {"best_of": 2, "n": 1},
    ],
    ids=str,
)
async def test_completions_are_the_reference_s(asked: dict[str, Any]) -> None:
    """Its chunks are the same object, with no finish reason until the end."""
    async with serving(FakeEngine(script=lambda _: [*b"hi", END])) as server:
        strictly(Completion, (await server.complete(**asked)).json())
        if "best_of" in asked:
            return
        *chunks, usage = events_of((await server.complete(**asked, **USAGE)).text)
    assert strictly(Completion, usage).usage is not None
    for chunk in chunks:
        (choice,) = chunk["choices"]
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        strictly(Completion, chunk)


async def test_the_report_of_an_echo_differs_from_the_types_by_its_first_null_alone() -> None:
    """The reference has it, and its types do not say so."""
    asked = {"echo": True, "logprobs": 1, "prompt": "ab"}
    async with serving() as server:
        body = (await server.complete(**asked)).json()
    logprobs = body["choices"][0]["logprobs"]
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    logprobs["token_logprobs"][0], logprobs["top_logprobs"][0] = 0.0, {}
    strictly(Completion, body)


@pytest.mark.parametrize(
    ("schema", "params", "ours"),
    [
        (TextPart, [ChatCompletionContentPartTextParam], set()),
        (StreamOptions, [ChatCompletionStreamOptionsParam], set()),
        (
            ChatMessage,
            [
                ChatCompletionAssistantMessageParam,
                ChatCompletionDeveloperMessageParam,
                ChatCompletionSystemMessageParam,
                ChatCompletionToolMessageParam,
                ChatCompletionUserMessageParam,
            ],
            {"reasoning_content"},
        ),
    ],
    ids=["part", "stream options", "message"],
)
def test_what_a_request_holds_inside_is_known_to_its_last_field(
    schema: type[Schema], params: list[type], ours: set[str]
) -> None:
    """A field that is missing here would be ignored instead of refused."""
    reference = {name for param in params for name in get_type_hints(param)}
    assert set(schema.model_fields) == reference | ours


def test_a_breakpoint_of_the_prompt_cache_is_refused_by_name() -> None:
    """Prefixes are kept without being told, and for no promised time."""
    part = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
    with pytest.raises(UnsupportedField) as caught:
        read_chat(**chat(messages=[{"role": "user", "content": [part]}]))
    assert caught.value.param == "messages[0].content[0].prompt_cache_breakpoint"
