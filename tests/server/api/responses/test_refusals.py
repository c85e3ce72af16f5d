"""What ``POST /v1/responses`` refuses: each fault by the name of its field."""

from __future__ import annotations

import re
from typing import Any

import pytest

from server.api.responses.ask import check_together
from server.api.schema.responses import ResponsesRequest
from server.core.errors import InvalidRequest, UnsupportedField
from tests.server.api.requests import read
from tests.server.api.responses.asking import LOGPROBS, ask, response
from tests.server.api.serving import error_of, serving

FUNCTION: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {}, "strict": None}
FORMAT = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}


def user(*parts: Any) -> list[Any]:
    """An input of one message."""
    return [{"role": "user", "content": list(parts)}]


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0]"),
    ({"tools": [{**FUNCTION, "async": True}]}, "tools[0].async"),
    ({"tools": [{**FUNCTION, "output_schema": {}}]}, "tools[0].output_schema"),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
    ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"input": user({"type": "input_image"})}, "input[0].content[0]"),
    ({"input": user({"type": "input_file"})}, "input[0].content[0]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ({"input": [{"type": "web_search_call"}]}, "input[0]"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, ""),
]


@pytest.mark.parametrize(("fields", "path"), UNSUPPORTED)
def test_a_value_of_the_reference_that_has_no_effect_here_is_refused(
    fields: dict[str, Any], path: str
) -> None:
    """By its name; the fields that are refused whatever they hold stand in the docs' table."""
    path = path or "stream_options.include_obfuscation"
    with pytest.raises(UnsupportedField, match=f"^{re.escape(path)}: ") as refused:
        read(ResponsesRequest, response(**fields))
    assert refused.value.param == path


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 7}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{"type": "poem"}]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": user()}, "input[0].content"),
    ({"input": user({"type": "text", "text": "x"})}, "input[0].content[0]"),
    ({"input": user({"type": "input_text", "text": 7})}, "input[0].content[0].text"),
    ({"instructions": 7}, "instructions"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"include": ["everything"]}, "include[0]"),
    ({"metadata": {"k": 7}}, "metadata.k"),
    ({"service_tier": "gold"}, "service_tier"),
    ({"store": "yes"}, "store"),
    ({"truncation": "middle"}, "truncation"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"tools": [{**FUNCTION, "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{"type": "tool"}]}, "tools[0]"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": {"type": "auto"}}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "x"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"text": {"format": {**FORMAT, "name": "a b"}}}, "text.format.name"),
    ({"text": {"format": {**FORMAT, "schema": []}}}, "text.format.schema"),
]


@pytest.mark.parametrize(("fields", "path"), WRONG)
def test_a_wrong_value_is_named_with_its_path(fields: dict[str, Any], path: str) -> None:
    """And is not repeated."""
    body = {name: value for name, value in response(**fields).items() if value is not None}
    with pytest.raises(InvalidRequest, match=f"^{re.escape(path)}: ") as refused:
        read(ResponsesRequest, body)
    assert refused.value.param == path


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {}}, "stream_options"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"background": True, "stream": True}, "stream"),
        ({"background": True, "store": False}, "store"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], param: str) -> None:
    """One of them is named."""
    request, _ = read(ResponsesRequest, response(**fields))
    with pytest.raises(InvalidRequest) as refused:
        check_together(request)
    assert refused.value.param == param


def test_null_is_the_same_as_no_field() -> None:
    """The reference's optional fields may be null."""
    names = set(ResponsesRequest.model_fields) - {"model", "input", "text"}
    request, ignored = read(ResponsesRequest, response(**dict.fromkeys(names)))
    check_together(request)
    assert ignored == ()


@pytest.mark.anyio
async def test_a_faulty_request_is_refused_before_anything_is_generated() -> None:
    """In OpenAI's shape, for a stream as well."""
    async with serving() as server:
        for fields in ({"temperature": 7}, {"prompt": {"id": "p"}, "stream": True}):
            refused = await ask(server, **fields)
            assert refused.status_code == 400
            assert error_of(refused)["param"] == next(iter(fields))
        unknown = await ask(server, model="other", stream=True)
        long = await ask(server, input="x" * 600, include=[LOGPROBS])
        assert not server.engine.submitted
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
    assert (long.status_code, error_of(long)["param"]) == (400, "input")
