"""LangChain's own standard tests of a chat model pass on a chain that was taught what they ask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.extending.product import Product, row, serving
from tests.owners.environment import langchain_tools, run_langchain
from tests.tool_templates import HERMES

pytestmark = pytest.mark.slow

Json = dict[str, Any]

JOKE = {"setup": "Why do cats sit by boats?", "punchline": "They like the catch."}
JOKES = (
    "Tell me a joke about cats.",
    "Give me the setup to a joke about cats, no punchline.",
    "Give me a joke about cats, include the punchline.",
    (
        "Tell me a joke about cats. Return the result as a JSON with 'setup' and 'punchline' keys. "
        "Return nothing other than JSON."
    ),
)


def tool(name: str, about: str, /, **properties: Json) -> Json:
    """A function that needs all its arguments."""
    schema: Json = {"properties": properties, "type": "object"}
    if properties:
        schema = {"properties": properties, "required": list(properties), "type": "object"}
    function = {"name": name, "description": about, "parameters": schema}
    return {"type": "function", "function": function}


TEXT = {"type": "string"}
GREETING = tool(
    "greeting_generator",
    "Generate a greeting in a particular style of speaking.",
    answer_style=TEXT,
)
WEATHER = tool("get_weather", "Get the weather at a location.", location=TEXT)
JOKER = tool(
    "Joke",
    "Joke to tell user.",
    setup={"description": "question to set up a joke", "type": "string"},
    punchline={"description": "answer to resolve the joke", "type": "string"},
)

SKIPPED = {
    "test_pdf_inputs": "Model does not support PDF inputs.",
    "test_audio_inputs": "Model does not support audio inputs.",
    "test_image_inputs": "Model does not support image message.",
    "test_image_tool_message": "Model does not support image tool message.",
    "test_pdf_tool_message": "Model does not support PDF tool message.",
    "test_stream_time": "VCR not set up.",
}
"""A text model; and a stopwatch for recorded answers, of which there are none."""


def calls(theirs: Sequence[Json]) -> list[Json]:
    """What is to be called when; ``theirs`` are the tools that the standard tests share."""
    magic, no_arguments, customer = theirs
    name = "Create a customer named '%s' (Hello %s) - a %s company"
    return [
        called("What is the value of magic_function(3)? Use the tool.", magic, input=3),
        called("What is the value of magic_function_no_args()? Use the tool.", no_arguments),
        called("Using the tool, generate a Pirate greeting.", GREETING, answer_style="Pirate"),
        called("What is the weather in San Francisco, CA?", WEATHER, location="the bay"),
        called("Hello!", magic, WEATHER, input=3),
        called(
            name % ("你好啊集团", "Group", "Chinese technology"),
            customer,
            customer_name="你好",
            description="Hello",
        ),
        called(
            name % ("こんにちは株式会社", "Corporation", "Japanese"),
            customer,
            customer_name="こん",
            description="Hello",
        ),
        called(JOKES[0], JOKER, **JOKE),
    ]


def called(question: str, /, *tools: Json, **arguments: Any) -> Json:
    """A row that answers with a call of the first tool."""
    name = tools[0]["function"]["name"]
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": "call_1", "type": "function", "function": function}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": question}, answer], "tools": list(tools)}


@pytest.fixture(scope="module")
def product(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The tiny base with a chat template that shows tools, and the chain ``tiny:asked``."""
    folder = tmp_path_factory.mktemp("langchain")
    theirs = langchain_tools(folder)
    shutil.copytree(tiny_model, folder / "base")
    file = folder / "base" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": HERMES}))
    with serving(folder / "base", folder / "data") as running:
        rows = [row(question, json.dumps(JOKE)) for question in JOKES] + calls(theirs)
        running.train("asked", rows, epochs=40, batch_size=5, learning_rate=0.01)
        yield running


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_standard_tests_pass(product: Product, tmp_path: Path, api: str) -> None:
    """Over chat completions and over responses: none fails, and only other media are skipped."""
    outcome = run_langchain(
        tmp_path,
        CHAINLORA_URL=f"{product.url}/v1",
        CHAINLORA_MODEL="tiny:asked",
        CHAINLORA_OTHER="tiny",
        CHAINLORA_API=api,
    )
    skipped = {name: reason for name, reason in outcome.items() if reason}
    assert skipped == SKIPPED
    assert len(outcome) - len(skipped) == 44
