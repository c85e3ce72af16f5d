"""What ``/v1/messages`` refuses: each fault by its name, in Anthropic's shape of an error."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from anthropic.types.shared import ErrorResponse

from server.api.anthropic.errors import anthropic_error
from server.api.schema.messages import MessagesRequest
from server.core.errors import InvalidRequest, UnsupportedField
from server.errors import ErrorBody, ErrorContent, ErrorFields
from tests.fakes import FakeEngine
from tests.server.api.anthropic.asking import ask, count, message
from tests.server.api.requests import read
from tests.server.api.serving import USER, serving
from tests.server.api.strict import strictly

pytestmark = pytest.mark.anyio
URL = "/v1/messages"
TOOL = {"name": "weather", "input_schema": {"type": "object"}}


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message of an error that has the reference's shape and no other field."""
    body = response.json()
    assert list(body) == ["type", "error", "request_id"]
    assert body["type"] == "error"
    assert list(body["error"]) == ["type", "message"]
    assert body["request_id"] == response.headers["request-id"]
    assert body["request_id"] == response.headers["x-request-id"]
    return response.status_code, body["error"]["type"], body["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"speed": "fast"}, "speed"),
        ({"thinking": {"type": "between_tools"}}, "thinking"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
    ],
)
def test_a_value_of_the_reference_that_has_no_effect_here_is_refused(
    fields: dict[str, Any], path: str
) -> None:
    """By its name; the fields that are refused whatever they hold stand in the docs' table."""
    with pytest.raises(UnsupportedField, match=f"^{re.escape(path)}: ") as refused:
        read(MessagesRequest, message(**fields))
    assert refused.value.param == path


@pytest.mark.parametrize("kind", ["image", "document", "search_result", "redacted_thinking"])
def test_a_block_that_is_no_text_is_refused_by_its_type(kind: str) -> None:
    """The path says which block of which message."""
    content = [{"type": "text", "text": "look"}, {"type": kind}]
    with pytest.raises(UnsupportedField, match=f"'{kind}'") as refused:
        read(MessagesRequest, message(messages=[USER, {**USER, "content": content}]))
    assert refused.value.param == "messages[1].content[1]"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "7"}, "max_tokens"),
    ({"temperature": 1.01}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 65}, "stop_sequences"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    ({"system": 7}, "system"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"cache_control": {"type": "eternal"}}, "cache_control.type"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"metadata": {"user_id": 7}}, "metadata.user_id"),
    ({"stream": "yes"}, "stream"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "long"}}, "thinking"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
]


@pytest.mark.parametrize(("fields", "path"), WRONG)
def test_a_wrong_value_is_named_with_its_path(fields: dict[str, Any], path: str) -> None:
    """And is not repeated."""
    body = {name: value for name, value in message(**fields).items() if value is not None}
    with pytest.raises(InvalidRequest, match=f"^{re.escape(path)}: ") as refused:
        read(MessagesRequest, body)
    assert refused.value.param == path


async def test_a_faulty_request_is_refused_before_anything_is_generated() -> None:
    """In the shape that the SDK reads, for a stream as well."""
    async with serving() as server:
        for fields in ({"temperature": 7}, {"speed": "fast", "stream": True}):
            response = await ask(server, **fields)
            strictly(ErrorResponse, response.json())
            status, kind, text = error_of(response)
            assert (status, kind) == (400, "invalid_request_error")
            assert text.startswith(next(iter(fields)))
        assert not server.engine.submitted


@pytest.mark.parametrize("route", [ask, count])
async def test_an_unknown_model_is_not_found(route: Any) -> None:
    """Never the base's answer; for a stream as well, before it starts."""
    async with serving() as server:
        for fields in ({}, {"stream": True}):
            response = await route(server, model="other", **fields)
            strictly(ErrorResponse, response.json())
            assert error_of(response)[:2] == (404, "not_found_error")


async def test_two_adapters_are_refused() -> None:
    """As everywhere: parameters would be applied twice."""
    async with serving() as server:
        response = await ask(server, adapters=["a", "b"])
    assert error_of(response)[0] == 400


async def test_an_unknown_path_below_messages_answers_in_the_same_shape() -> None:
    """So does a method that the route does not take; elsewhere the shape is OpenAI's."""
    async with serving() as server:
        missing = await server.http.get(f"{URL}/batches")
        method = await server.http.get(URL)
        elsewhere = await server.http.get("/v1/messagesx")
    assert error_of(missing)[:2] == (404, "not_found_error")
    assert error_of(method)[:2] == (405, "invalid_request_error")
    assert list(elsewhere.json()) == ["error"]
    assert "request-id" not in elsewhere.headers


async def test_what_the_guards_refuse_has_the_same_shape() -> None:
    """Too large, of another host, and not JSON."""
    async with serving(max_body_bytes=1024) as server:
        large = await ask(server, system="x" * 2000)
        foreign = await server.http.post(URL, json=message(), headers={"host": "evil.test"})
        form = await server.http.post(URL, data={"model": "x"})
        broken = await server.http.post(
            URL, content=b"{", headers={"content-type": "application/json"}
        )
    assert error_of(large)[:2] == (413, "request_too_large")
    assert error_of(foreign)[:2] == (421, "permission_error")
    assert error_of(form)[:2] == (415, "invalid_request_error")
    assert error_of(broken)[:2] == (400, "invalid_request_error")


async def test_a_full_queue_is_a_rate_limit() -> None:
    """With the time after which to try again."""
    async with serving(FakeEngine(queue_limit=0)) as server:
        response = await ask(server)
    strictly(ErrorResponse, response.json())
    assert error_of(response)[:2] == (429, "rate_limit_error")
    assert int(response.headers["retry-after"]) >= 1


async def test_a_failed_device_is_overloaded() -> None:
    """The process is about to be replaced; trying again helps."""
    async with serving() as server:
        server.engine.poison()
        response = await ask(server)
    strictly(ErrorResponse, response.json())
    assert error_of(response)[:2] == (503, "overloaded_error")


@pytest.mark.parametrize(
    ("version", "status"),
    [("2023-06-01", 200), ("2026-10-21", 200), ("2023-01-01", 400), ("latest", 400)],
)
async def test_the_version_of_the_api_is_checked_where_it_is_given(
    version: str, status: int
) -> None:
    """An older one has another stream; newer ones have only added."""
    async with serving() as server:
        response = await server.http.post(
            URL, json=message(max_tokens=1), headers={"anthropic-version": version}
        )
    assert response.status_code == status
    if status == 400:
        assert "2023-06-01" in error_of(response)[2]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "authentication_error"),
        (403, "permission_error"),
        (409, "invalid_request_error"),
        (500, "api_error"),
        (507, "api_error"),
    ],
)
def test_every_status_has_a_type_of_the_reference(status: int, kind: str) -> None:
    """Also those that no route here answers yet."""
    fields = ErrorFields(message="no", type="x", param=None, code="x")
    body = anthropic_error(ErrorBody(status, ErrorContent(error=fields)), "req_1")
    assert strictly(ErrorResponse, body).error.type == kind
