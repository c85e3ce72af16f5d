"""The body of ``POST /v1/completions``: the whole legacy reference, and our three extensions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from server.api.schema.fields import (
    FalseOnly,
    GenerationRequest,
    OneOnly,
    Unsupported,
    unsupported,
    wrong,
)

DEFAULT_MAX_TOKENS = 16
"""The reference's own default."""


def _one_prompt(value: object) -> object:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong("must be a string or a list of token ids")
    if any(isinstance(item, str | list) for item in value):
        raise unsupported("this server takes one prompt so far; send one request for each")
    if not all(type(item) is int for item in value):
        raise wrong("must be a string or a list of token ids")
    return tuple(value)


def _not_empty(value: str | tuple[int, ...]) -> str | tuple[int, ...]:
    if not value:
        raise wrong("must not be empty")
    return value


class CompletionRequest(GenerationRequest):
    """The whole body."""

    prompt: Annotated[
        str | tuple[int, ...], BeforeValidator(_one_prompt), AfterValidator(_not_empty)
    ]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: OneOnly = None
    echo: FalseOnly = None
    suffix: Unsupported = None
