"""The body of ``POST /v1/completions``: the whole legacy reference, and our three extensions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from server.api.schema.fields import Unsupported, wrong
from server.api.schema.formats import GuidedRequest

_DEFAULT_MAX_TOKENS = 16
"""The reference's own default."""

Prompt = str | tuple[int, ...]
"""A text, or token ids."""

_KINDS = "must be a string, a list of strings, a list of token ids or a list of such lists"


def _prompts(value: object) -> object:
    """Every kind of ``prompt`` as a tuple of prompts."""
    if isinstance(value, str):
        return (_prompt(value),)
    if not isinstance(value, list):
        raise wrong(_KINDS)
    if not value:
        raise wrong("must not be empty")
    if all(type(item) is int for item in value):
        return (tuple(value),)
    if all(isinstance(item, str) for item in value) or all(
        isinstance(item, list) for item in value
    ):
        return tuple(_prompt(item) for item in value)
    raise wrong(_KINDS)


def _prompt(value: str | list[object]) -> object:
    if not value:
        raise wrong("must not be empty")
    if isinstance(value, str):
        return value
    if not all(type(item) is int for item in value):
        raise wrong(_KINDS)
    return tuple(value)


class CompletionRequest(GuidedRequest):
    """The whole body."""

    prompt: Annotated[tuple[Prompt, ...], BeforeValidator(_prompts)]
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    echo: bool | None = None
    suffix: Unsupported = None

    @property
    def most_tokens(self) -> int:
        """``max_tokens``, or the reference's default."""
        return _DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def candidates(self) -> int:
        """How many texts are made of each prompt, of which the best ``choices`` are given."""
        return self.choices if self.best_of is None else self.best_of
