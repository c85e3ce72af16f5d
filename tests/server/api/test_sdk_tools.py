"""A round of a tool through the official SDKs' Responses and Messages, unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.server.api.serving import BASE
from tests.server.api.toolbox import CALL, CITY, HERMES, OSLO, model, prompt_of

pytestmark = pytest.mark.anyio
TEXT = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}"
QUESTION: Any = {"role": "user", "content": "Oslo?"}


async def test_a_function_is_called_and_answered_by_openai_s_client() -> None:
    """Its stream helper reads the call, and its own output goes back in with the result."""
    tools: Any = [{"type": "function", "name": "weather", "parameters": CITY, "strict": False}]
    async with model(TEXT, HERMES) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            create = client.responses.stream(model=BASE, input=[QUESTION], tools=tools)
            async with create as stream:
                events = [event async for event in stream]
                final = await stream.get_final_response()
            arguments = [
                event.snapshot
                for event in events
                if event.type == "response.function_call_arguments.delta"
            ]
            thought, words, call = final.output
            assert call.type == "function_call"
            assert (arguments[-1], call.arguments) == (OSLO, OSLO)
            history: Any = [QUESTION, thought, words, call]
            history.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
            )
            await client.responses.create(model=BASE, input=history, tools=tools)
        lines = prompt_of(server).split("\n")
    assert lines[-2] == f'<tool>rain{{"tool_call_id": "{call.call_id}"}}'
    assert '"reasoning_content": "Hm."' in lines[-3]


async def test_a_tool_is_used_and_answered_by_anthropic_s_client() -> None:
    """Its stream helper reads the input, and its own message goes back in with the result."""
    tools: Any = [{"name": "weather", "input_schema": CITY}]
    async with model(TEXT, HERMES) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            asked = client.messages.stream(
                model=BASE, messages=[QUESTION], tools=tools, max_tokens=400
            )
            async with asked as stream:
                final = await stream.get_final_message()
            assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
            use = final.content[-1]
            assert use.type == "tool_use"
            assert (use.input, final.stop_reason) == ({"city": "Oslo"}, "tool_use")
            result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
            turns: Any = [
                QUESTION,
                {"role": "assistant", "content": final.content},
                {"role": "user", "content": [result]},
            ]
            await client.messages.create(model=BASE, messages=turns, tools=tools, max_tokens=400)
        lines = prompt_of(server).split("\n")
    assert lines[-2] == f'<tool>rain{{"tool_call_id": "{use.id}"}}'
    assert '"reasoning_content": "Hm."' in lines[-3]
