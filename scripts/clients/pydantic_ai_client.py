"""pydantic-ai: text, a stream, an object by a tool that must be called. Arguments: URL, model."""

import asyncio
import sys

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url, name = sys.argv[1:]
model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="none"))
settings = {"max_tokens": 200, "temperature": 0}


class City(BaseModel):
    """What is asked for."""

    city: str
    country: str


async def main() -> None:
    """Each in turn."""
    agent = Agent(model, model_settings=settings)
    print("text", (await agent.run("Say hello.")).output)
    async with agent.run_stream("Say hello.") as stream:
        print("stream", await stream.get_output())
    typed = Agent(model, output_type=City, model_settings=settings)
    print("object", (await typed.run("Paris is in France.")).output)


asyncio.run(main())
