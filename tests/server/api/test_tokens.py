"""vLLM's ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fake_tokenizer import BEGIN, FakeDialect, FakeTokenizer
from tests.fakes import FakeEngine
from tests.server.api.serving import BASE, PIRATE, USER, Served, error_of, serving, serving_model

pytestmark = pytest.mark.anyio


async def tokenize(server: Served, **fields: Any) -> httpx.Response:
    """A call of the route."""
    return await server.http.post("/tokenize", json=fields)


async def test_a_text_becomes_its_tokens() -> None:
    """In vLLM's shape, with or without special tokens and what the tokens spell."""
    async with serving() as server:
        answer = (await tokenize(server, model=BASE, prompt="hé")).json()
        plain = (await tokenize(server, prompt="hé", add_special_tokens=False)).json()
        spelled = (await tokenize(server, prompt="hi", return_token_strs=True)).json()
    assert answer == {
        "count": 4,
        "max_model_len": 512,
        "tokens": [BEGIN, *"hé".encode()],
        "token_strs": None,
    }
    assert plain["tokens"] == list("hé".encode())
    assert spelled["token_strs"] == ["", "h", "i"]


async def test_a_conversation_becomes_its_prompt() -> None:
    """The one that a chat completion would be given, open or closed or to be continued."""
    said = {"role": "assistant", "content": "so"}
    tool = {"type": "function", "function": {"name": "f"}}
    dialect = FakeDialect(variables=frozenset({"mood", "tools"}), call_kind="object")
    tokenizer = FakeTokenizer(dialect=dialect)

    async def text(server: Served, **fields: Any) -> str:
        answer = await tokenize(server, model=PIRATE, **fields)
        assert answer.status_code == 200, answer.text
        return bytes(answer.json()["tokens"][1:]).decode()

    async with serving_model(FakeEngine(), tokenizer) as server:
        assert await text(server, messages=[USER]) == "<user>hi\n<assistant>"
        closed = await text(server, messages=[USER], add_generation_prompt=False)
        assert closed == "<user>hi\n"
        going_on = await text(
            server,
            messages=[USER, said],
            add_generation_prompt=False,
            continue_final_message=True,
        )
        assert going_on == "<user>hi\n<assistant>so"
        moody = await text(server, messages=[USER], chat_template_kwargs={"mood": "bad"})
        assert moody.startswith('{"mood": "bad"}\n')
        assert '"tools"' in await text(server, messages=[USER], tools=[tool])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [USER]}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"messages": []}, "messages"),
        ({"messages": [USER], "add_special_tokens": True}, "add_special_tokens"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"prompt": "a", "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": [USER], "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
    ],
)
async def test_what_makes_no_sense_is_a_400_that_names_the_field(
    fields: dict[str, Any], param: str
) -> None:
    """A template's source never comes from a request."""
    async with serving() as server:
        answer = await tokenize(server, **fields)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


async def test_tokens_become_their_text() -> None:
    """Also where characters are split between them; an unknown id is named."""
    async with serving() as server:
        tokens = (await tokenize(server, prompt="hé €")).json()["tokens"]
        answer = await server.http.post("/detokenize", json={"model": BASE, "tokens": tokens})
        empty = await server.http.post("/detokenize", json={"tokens": []})
        wrong = await server.http.post("/detokenize", json={"tokens": [1, 999]})
    assert answer.json() == {"prompt": "hé €"}
    assert empty.json() == {"prompt": ""}
    assert wrong.status_code == 400
    assert error_of(wrong)["param"] == "tokens"


@pytest.mark.parametrize("route", ["/tokenize", "/detokenize"])
async def test_guards_and_names_hold_as_everywhere(route: str) -> None:
    """A foreign page, an unknown chain and two adapters."""
    body: dict[str, Any] = {"prompt": "a"} if route == "/tokenize" else {"tokens": [1]}
    async with serving() as server:
        foreign = await server.http.post(route, json=body, headers={"origin": "http://evil.test"})
        unknown = await server.http.post(route, json={**body, "model": f"{BASE}:nobody"})
        two = await server.http.post(route, json={**body, "model": f"{PIRATE},judge"})
    assert [each.status_code for each in (foreign, unknown, two)] == [421, 404, 400]
