"""The body of ``POST /v1/completions``: the whole legacy reference, and our three extensions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.api.schema.fields import Unsupported
from server.api.schema.formats import GuidedRequest
from server.api.schema.texts import Texts

_DEFAULT_MAX_TOKENS = 16
"""The reference's own default."""


class CompletionRequest(GuidedRequest):
    """The whole body."""

    prompt: Texts
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
