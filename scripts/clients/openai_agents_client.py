"""openai-agents: an agent on responses, and one on chat completions. Arguments: URL, model."""

import asyncio
import sys

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

url, name = sys.argv[1:]
set_tracing_disabled(True)


async def main() -> None:
    """Each in turn, whole and streamed."""
    client = AsyncOpenAI(base_url=url, api_key="none")
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        model = kind(model=name, openai_client=client)
        agent = Agent(
            name="clerk",
            instructions="Be brief.",
            model=model,
            model_settings=ModelSettings(max_tokens=32, temperature=0),
        )
        print(kind.__name__, (await Runner.run(agent, "Say hello.")).final_output)
        streamed = Runner.run_streamed(agent, "Say hello.")
        events = [event.type async for event in streamed.stream_events()]
        print("stream", len(events), streamed.final_output)


asyncio.run(main())
