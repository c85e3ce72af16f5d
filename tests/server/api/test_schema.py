"""Request fields: the whole reference is known, what is wrong or unsupported is named."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params as chat_reference
from openai.types.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.fields import GenerationRequest
from server.core.errors import InvalidRequest, TwoAdapters, UnsupportedField
from tests.server.api.requests import CHAT, read, read_chat


def reference(*params: type) -> set[str]:
    """The field names of the SDK's own request types."""
    return {name for param in params for name in get_type_hints(param)}


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (
            ChatRequest,
            reference(
                chat_reference.CompletionCreateParamsNonStreaming,
                chat_reference.CompletionCreateParamsStreaming,
            ),
        ),
        (
            CompletionRequest,
            reference(CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming),
        ),
    ],
    ids=["chat", "completions"],
)
def test_the_schema_knows_every_field_of_the_reference(
    schema: type[GenerationRequest], fields: set[str]
) -> None:
    """A field that is missing here would be ignored instead of refused."""
    ours = {"adapters", "top_k", "min_p", "repetition_penalty", "response_format", "priority"}
    ours |= {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}
    if schema is ChatRequest:
        ours |= {"chat_template_kwargs", "add_generation_prompt", "continue_final_message"}
    assert set(schema.model_fields) == fields | ours


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("function_call", "auto"),
        ("functions", []),
        ("modalities", ["text", "audio"]),
        ("moderation", {"model": "x"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("prompt_cache_options", {"mode": "explicit"}),
        ("prompt_cache_retention", "24h"),
        ("response_format", {"type": "grammar"}),
        ("store", True),
        ("tools[0].type", [{"type": "custom", "custom": {"name": "x"}}]),
        ("tool_choice.type", {"type": "custom", "custom": {"name": "x"}}),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ],
)
def test_a_field_of_the_reference_that_is_not_supported_is_named(field: str, value: Any) -> None:
    """Ignoring it would answer another question than the one asked."""
    with pytest.raises(UnsupportedField, match=f"^{re.escape(field)}: ") as caught:
        read_chat(**{field.partition("[")[0].partition(".")[0]: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"n": 1},
        {"store": False},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k"},
        {"service_tier": "flex", "metadata": {"a": "b"}},
    ],
)
def test_asking_for_what_happens_anyway_is_no_error(fields: dict[str, Any]) -> None:
    """Clients spell out defaults."""
    read_chat(**fields)


@pytest.mark.parametrize("field", sorted(set(ChatRequest.model_fields) - {"model", "messages"}))
def test_null_means_absent(field: str) -> None:
    """Clients serialise every field that they know."""
    assert read_chat(**{field: None}) == read_chat()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", True),
        ("temperature", "1"),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("seed", 1.0),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("max_tokens", "7"),
        ("max_tokens", True),
        ("max_tokens", 10**30),
        ("max_completion_tokens", -1),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", list("abcde")),
        ("stop", 5),
        ("stop", "x" * 257),
        ("stream", 1),
        ("stream", "true"),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"01": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"\u0663": 1}),
        ("logit_bias", [1]),
        ("logit_bias", {str(key): 0 for key in range(1025)}),
        ("logprobs", 1),
        ("n", 0),
        ("n", 129),
        ("n", 1.0),
        ("n", True),
        ("user", 5),
        ("metadata", {str(key): "" for key in range(17)}),
        ("service_tier", "gold"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 1.5),
        ("priority", 1001),
        ("priority", -1001),
        ("priority", 0.5),
        ("priority", True),
        ("repetition_penalty", 0),
        ("model", ""),
        ("model", 5),
        ("messages", []),
        ("messages", "hi"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_field(field: str, value: Any) -> None:
    """Types are strict, numbers finite and bounded; true is no number and "7" is no integer."""
    with pytest.raises(InvalidRequest) as caught:
        read_chat(**{field: value})
    assert not isinstance(caught.value, UnsupportedField)
    assert caught.value.param == field


@pytest.mark.parametrize("model", [["a", "b"], ["a"], []])
def test_a_list_of_models_is_refused_with_the_reason(model: list[str]) -> None:
    """One adapter per request."""
    with pytest.raises(TwoAdapters, match="one adapter per request") as caught:
        read_chat(model=model)
    assert caught.value.param == "model"


@pytest.mark.parametrize("adapters", ["x", ["x"], {"x": 1}])
def test_an_adapter_beside_the_model_is_refused_with_the_reason(adapters: Any) -> None:
    """mlx-lm's own field; here the adapter is part of the name."""
    with pytest.raises(TwoAdapters, match="base:chain") as caught:
        read_chat(adapters=adapters)
    assert caught.value.param == "adapters"


def test_two_names_of_one_limit_may_agree_but_not_differ() -> None:
    """Which of two values was meant cannot be guessed."""
    assert read_chat(max_tokens=5, max_completion_tokens=5).most_tokens == 5
    assert read_chat(max_tokens=5).most_tokens == 5
    assert read_chat(max_completion_tokens=5).most_tokens == 5
    assert read_chat().most_tokens is None
    with pytest.raises(InvalidRequest, match="differ"):
        read_chat(max_tokens=5, max_completion_tokens=6)


def test_alternatives_need_the_report() -> None:
    """As in the reference."""
    assert read_chat(logprobs=True, top_logprobs=20).top_logprobs == 20
    for fields in ({"top_logprobs": 2}, {"top_logprobs": 0, "logprobs": False}):
        with pytest.raises(InvalidRequest, match="needs logprobs") as caught:
            read_chat(**fields)
        assert caught.value.param == "top_logprobs"
    with pytest.raises(InvalidRequest):
        read_chat(logprobs=True, top_logprobs=21)


def test_stream_options_need_a_stream() -> None:
    """As in the reference."""
    with pytest.raises(InvalidRequest, match="stream: true"):
        read_chat(stream_options={"include_usage": True})
    with pytest.raises(UnsupportedField) as caught:
        read_chat(stream=True, stream_options={"include_obfuscation": True})
    assert caught.value.param == "stream_options.include_obfuscation"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    """The reference requires two."""
    with pytest.raises(InvalidRequest, match="required") as caught:
        read(ChatRequest, {name: value for name, value in CHAT.items() if name != missing})
    assert caught.value.param == missing
