"""LangChain's standard tests of a chat model, on ChatOpenAI. Runs in the owners' environment.

Where the server is, the chain to ask, another model of it and the API to speak stand in the
environment. Run as a script it prints the tools of the standard tests as they are sent, for a chain
to learn.
"""

from __future__ import annotations

import json
import os
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests, chat_models


class TestChainlora(ChatModelIntegrationTests):  # type: ignore[misc]
    """Every standard test; a text model takes no images, sounds or PDF files."""

    @property
    def chat_model_class(self) -> Any:
        """The client, as it is."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Greedy and short; LangChain asks its own servers for the usage of streams unasked."""
        return {
            "base_url": os.environ["CHAINLORA_URL"],
            "model": os.environ["CHAINLORA_MODEL"],
            "use_responses_api": os.environ["CHAINLORA_API"] == "responses",
            "api_key": "none",
            "temperature": 0,
            "max_tokens": 120,
            "max_retries": 0,
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        """``response_format: json_object``."""
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        """Blocks of Anthropic's messages, which ChatOpenAI translates."""
        return True

    @property
    def supports_model_override(self) -> bool:
        """Another model for one call."""
        return True

    @property
    def model_override_value(self) -> str:
        """The base of the chain."""
        return os.environ["CHAINLORA_OTHER"]


if __name__ == "__main__":
    tools = (
        chat_models.magic_function,
        chat_models.magic_function_no_args,
        chat_models.unicode_customer,
    )
    print(json.dumps([convert_to_openai_tool(tool) for tool in tools]))  # noqa: T201
