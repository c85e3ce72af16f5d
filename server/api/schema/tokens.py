"""The bodies of vLLM's ``POST /tokenize`` and ``POST /detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import FailFast, Field

from server.api.schema.chat import ChatMessage
from server.api.schema.fields import ModelField, NoAdapters, Schema, Unsupported
from server.api.schema.tools import TemplateVariables, Tools

MOST_TOKENS = 1_000_000


class TokenizeRequest(Schema):
    """A text in ``prompt``, or a conversation in ``messages``."""

    model: ModelField | None = None
    adapters: NoAdapters = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    messages: Annotated[list[ChatMessage], FailFast(), Field(min_length=1)] = Field(
        default_factory=list
    )
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Tools | None = None
    chat_template_kwargs: TemplateVariables | None = None
    chat_template: Unsupported = None
    mm_processor_kwargs: Unsupported = None
    media_io_kwargs: Unsupported = None


class DetokenizeRequest(Schema):
    """Token ids."""

    model: ModelField | None = None
    adapters: NoAdapters = None
    tokens: Annotated[list[int], FailFast(), Field(max_length=MOST_TOKENS)]
