"""How long a response's prompt is, and what is left out of one that is too long."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import InputTokenCountResponse

from tests.server.api.responses.asking import URL, answer, ask, response
from tests.server.api.serving import BASE, PIRATE, Served, error_of, serving
from tests.server.api.strict import strictly
from tests.server.api.toolbox import CITY, HERMES, model, prompt_of

pytestmark = pytest.mark.anyio
LONG = "x" * 150


def user(text: str) -> dict[str, Any]:
    """Something that the user says."""
    return {"role": "user", "content": text}


async def count(server: Served, **fields: Any) -> int:
    """The tokens of a prompt."""
    given = await server.http.post(f"{URL}/input_tokens", json=response(**fields))
    assert given.status_code == 200, given.text
    return int(strictly(InputTokenCountResponse, given.json()).input_tokens)


async def test_counting_reads_the_prompt_and_generates_nothing() -> None:
    """The same number as ``usage`` has, for the base and for a chain, with what came before."""
    async with serving() as server:
        first = await answer(server, max_output_tokens=1)
        fields = {"instructions": "be brief", "previous_response_id": first["id"]}
        counts = [await count(server, model=name, **fields) for name in (BASE, PIRATE)]
        assert len(server.engine.submitted) == 1
        whole = await answer(server, max_output_tokens=1, **fields)
        refused = await server.http.post(f"{URL}/input_tokens", json=response(personality="x"))
    assert counts == [whole["usage"]["input_tokens"]] * 2
    assert error_of(refused)["param"] == "personality"


async def test_tools_are_counted_too() -> None:
    """They are part of the prompt."""
    tool = {"type": "function", "name": "weather", "parameters": CITY, "strict": False}
    async with model("x", HERMES) as server:
        assert await count(server, tools=[tool]) > await count(server)


async def test_a_conversation_that_does_not_fit_loses_its_beginning() -> None:
    """No more of it than must be, and never the instructions."""
    turns = [user(f"{number}{LONG}") for number in range(5)]
    async with serving() as server:
        refused = await ask(server, input=turns)
        body = await answer(
            server,
            input=turns,
            instructions="be brief",
            truncation="auto",
            max_output_tokens=40,
        )
        roomy = await answer(server, input=turns, truncation="auto", max_output_tokens=1)
        lengths = [len(row.prompt) for row in server.engine.submitted]
    assert error_of(refused)["code"] == "context_length_exceeded"
    assert body["truncation"] == "auto"
    kept = [bytes(row.prompt[1:]).decode() for row in server.engine.submitted]
    assert kept[0] == f"<system>be brief\n<user>3{LONG}\n<user>4{LONG}\n<assistant>"
    assert kept[1].startswith(f"<user>2{LONG}")
    assert [body["usage"]["input_tokens"], roomy["usage"]["input_tokens"]] == lengths


async def test_what_fits_stays_whole() -> None:
    """Nothing is left out without need."""
    turns = [user("one"), {"role": "assistant", "content": "two"}, user("three")]
    async with serving() as server:
        await answer(server, input=turns, truncation="auto", max_output_tokens=1)
        prompt = bytes(server.engine.submitted[0].prompt[1:]).decode()
    assert prompt == "<user>one\n<assistant>two\n<user>three\n<assistant>"


async def test_a_result_is_not_kept_without_its_call() -> None:
    """What stays begins with something that the user says."""
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "rain"}
    turns = [user("x" * 4000), call, result, user("and now?")]
    async with model("x", HERMES) as server:
        await answer(server, input=turns, truncation="auto")
        assert prompt_of(server) == "<user>and now?\n<assistant>"


async def test_a_last_word_that_does_not_fit_alone_is_refused() -> None:
    """There is nothing left to leave out."""
    async with serving() as server:
        refused = await ask(server, input=[user("hi"), user("x" * 600)], truncation="auto")
    assert error_of(refused)["code"] == "context_length_exceeded"
