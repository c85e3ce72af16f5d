"""Models that say what they are told in each format of calls, for tests of tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.fake_tokenizer import FakeDialect, FakeTokenizer
from tests.fakes import FakeEngine, saying
from tests.server.api.serving import USER, Served, error_of, serving_model

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": CITY},
}
TIME = {"type": "function", "function": {"name": "time"}}
OSLO = '{"city": "Oslo"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {OSLO}}}\n</tool_call>'
HERMES = FakeDialect(
    variables=frozenset({"tools", "enable_thinking"}),
    call_kind="object",
    call_start="<tool_call>",
    call_end="</tool_call>",
    think_start="<think>",
    think_end="</think>",
)


@asynccontextmanager
async def model(text: str, dialect: FakeDialect | None = None) -> AsyncIterator[Served]:
    """A model of ``dialect`` that says ``text``."""
    engine = FakeEngine(script=saying(text), context=4096)
    async with serving_model(engine, FakeTokenizer(max_context=4096, dialect=dialect)) as server:
        yield server


async def choice_of(text: str, dialect: FakeDialect | None = None, **fields: Any) -> dict[str, Any]:
    """The choice of a request with two tools."""
    async with model(text, dialect) as server:
        response = await server.chat(**{"tools": [WEATHER, TIME], **fields})
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    found: dict[str, Any] = choice
    return found


async def refused(**fields: Any) -> dict[str, Any]:
    """The error of a request that is refused before a row is queued."""
    async with model("x", HERMES) as server:
        response = await server.chat(**fields)
        assert server.engine.submitted == []
    assert response.status_code == 400
    return error_of(response)


def prompt_of(server: Served) -> str:
    """The last prompt, as text."""
    return bytes(server.engine.submitted[-1].prompt[1:]).decode()


DIALECTS = {
    "own": (None, CALL),
    "hermes": (HERMES, CALL),
    "mistral": (
        FakeDialect(call_kind="list", call_start="[TOOL_CALLS]"),
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {OSLO}}}]',
    ),
    "mistral, newer": (
        FakeDialect(call_kind="header", call_start="[TOOL_CALLS]"),
        f"[TOOL_CALLS]weather[ARGS]{OSLO}",
    ),
    "llama": (
        FakeDialect(call_kind="bare", call_start="<|python_tag|>"),
        f'{{"name": "weather", "parameters": {OSLO}}}',
    ),
    "parsed": (
        FakeDialect(call_kind="text", call_start="<call>", call_end="</call>"),
        f"<call>weather:{OSLO}</call>",
    ),
}


HISTORY: list[dict[str, Any]] = [
    USER,
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "They ask.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": OSLO},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
