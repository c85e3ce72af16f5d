"""``response_format`` and the ``guided_*`` fields, from the request to the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.fakes import FakeEngine, saying
from tests.server.api.serving import PIRATE, USER, Served, error_of, events_of, said, serving
from tests.server.api.toolbox import HERMES, WEATHER, model

pytestmark = pytest.mark.anyio

TOWN = {
    "type": "object",
    "properties": {"town": {"type": "string", "maxLength": 5}, "large": {"type": "boolean"}},
    "required": ["town", "large"],
    "additionalProperties": False,
}
OSLO = '{"town": "Oslo", "large": true}'
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "town", "schema": TOWN}}


def asked(definition: dict[str, Any]) -> dict[str, Any]:
    """A ``response_format`` with this schema."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "it", "schema": definition, "strict": True},
    }


def held(text: str) -> Any:
    """A server whose model wants to say ``text``."""
    return serving(FakeEngine(script=saying(text)))


@pytest.mark.parametrize("strict", [True, False, None])
async def test_a_json_schema_is_enforced_whatever_strict_says(strict: bool | None) -> None:
    """The model wants to say something else, and cannot."""
    named = {"name": "town", "schema": TOWN, "strict": strict}
    form = {"type": "json_schema", "json_schema": named}
    async with held("Oslo is a town.") as server:
        response = await server.chat(response_format=form)
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert set(json.loads(choice["message"]["content"])) == {"town", "large"}


@pytest.mark.parametrize(
    ("fields", "wanted", "text"),
    [
        ({"response_format": {"type": "text"}}, "Oslo", "Oslo"),
        ({"response_format": {"type": "json_object"}}, '{"a": [1, {}]}', '{"a": [1, {}]}'),
        ({"response_format": BY_SCHEMA}, OSLO, OSLO),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}}, "7", "7"),
        ({"guided_json": TOWN}, OSLO, OSLO),
        ({"guided_json": json.dumps(TOWN)}, OSLO, OSLO),
        ({"guided_regex": "[a-c]{3}"}, "abc", "abc"),
        ({"guided_choice": ["yes", "no", 'per"haps']}, 'per"haps', 'per"haps'),
        ({"guided_grammar": 'start: "<" /[a-z]+/ ">"'}, "<br>", "<br>"),
    ],
)
async def test_a_text_that_fits_is_said_as_the_model_wants_it(
    fields: dict[str, Any], wanted: str, text: str
) -> None:
    """In chats and completions, by the base and by an adapter."""
    async with held(wanted) as server:
        chat = await server.chat(model=PIRATE, **fields)
        completion = await server.complete(max_tokens=64, **fields)
    assert chat.json()["choices"][0]["message"]["content"] == text
    assert completion.json()["choices"][0]["text"] == text


async def test_a_text_that_max_tokens_cuts_says_length() -> None:
    """It is no JSON, and the client is told why."""
    async with held(OSLO) as server:
        response = await server.chat(response_format=BY_SCHEMA, max_tokens=5)
    (choice,) = response.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (OSLO[:5], "length")


async def test_streamed_pieces_join_to_the_whole() -> None:
    """Of every choice."""
    async with held(OSLO) as server:
        response = await server.chat(response_format=BY_SCHEMA, stream=True)
        several = await server.chat(response_format=BY_SCHEMA, n=2)
    assert said(events_of(response.text)) == OSLO
    assert [one["message"]["content"] for one in several.json()["choices"]] == [OSLO, OSLO]


async def test_a_stop_string_cuts_a_constrained_text_as_any_other() -> None:
    """The client asked for both."""
    async with held(OSLO) as server:
        response = await server.chat(response_format=BY_SCHEMA, stop='", "')
    (choice,) = response.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"town": "Oslo', "stop")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guided_regex": "("}, "guided_regex", "invalid regex"),
        ({"guided_regex": "a" * 2049}, "guided_regex", "at most 2048 characters"),
        ({"guided_grammar": "start: x"}, "guided_grammar", "unknown name"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_json": "{"}, "guided_json", "must be a JSON schema"),
        ({"guided_json": {"type": "nothing"}}, "guided_json", "Invalid type"),
        ({"guided_json": {"uniqueItems": True}}, "guided_json", "'uniqueItems' cannot be enforced"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "give one of them"),
        (
            {"guided_json": {}, "response_format": {"type": "json_object"}},
            "guided_json",
            "give one of them",
        ),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
            "match",
        ),
        (
            {"response_format": asked({"type": "array", "items": {"contains": {}}})},
            "response_format.json_schema.schema",
            "schema.items: the keyword 'contains' cannot be enforced",
        ),
        (
            {"response_format": asked({"$ref": "#/$defs/nowhere"})},
            "response_format.json_schema.schema",
            "does not exist",
        ),
    ],
)
async def test_what_cannot_be_enforced_is_refused_before_the_first_byte(
    fields: dict[str, Any], param: str, words: str
) -> None:
    """With the field and the reason, streamed or not."""
    async with held("x") as server:
        for stream in (False, True):
            response = await server.chat(stream=stream, **fields)
            assert response.status_code == 400
            error = error_of(response)
            assert error["param"] == param
            assert words in error["message"]
        assert server.engine.submitted == []


async def test_reasoning_that_the_prompt_has_opened_comes_before_the_json() -> None:
    """The schema is for the answer, not for what is thought."""
    text = f"Hm, a town.\n</think>\n\n{OSLO}"
    async with model(text, HERMES) as server:
        response = await server.chat(
            messages=[USER, {"role": "assistant", "content": "<think>"}],
            continue_final_message=True,
            add_generation_prompt=False,
            response_format=BY_SCHEMA,
        )
    message = response.json()["choices"][0]["message"]
    assert message["content"] == OSLO


async def test_with_tools_an_answer_that_calls_none_fits_the_schema() -> None:
    """``response_format`` is about what is said."""
    async with model(OSLO.replace(":", ""), HERMES) as server:
        response = await server.chat(tools=[WEATHER], response_format=BY_SCHEMA)
    content = response.json()["choices"][0]["message"]["content"]
    assert set(json.loads(content)) == {"town", "large"}


class Town(BaseModel):
    """What a client wants to have."""

    town: str
    large: bool


async def parsed(server: Served) -> Any:
    """What the SDK makes of an answer."""
    url = f"http://127.0.0.1:{server.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        return await client.chat.completions.parse(
            model=PIRATE,
            messages=[{"role": "user", "content": "Which town?"}],
            response_format=Town,
        )


async def test_the_sdk_parses_into_a_pydantic_model() -> None:
    """``client.chat.completions.parse``."""
    async with held(OSLO) as server:
        completion = await parsed(server)
    assert completion.choices[0].message.parsed == Town(town="Oslo", large=True)
