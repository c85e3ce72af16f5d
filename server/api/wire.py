"""The objects that OpenAI's API answers with, and their streamed halves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict

from server.api.generation import End
from server.api.transcript import Piece, Report
from server.core.messages import TokenLogprobs
from server.core.ports import Model, Tokenizer

LEAST_LOGPROB = -9999.0
"""What the reference writes where a token is all but impossible; JSON has no infinity."""

Body = dict[str, Any]


class Shape(Protocol):
    """How one endpoint words what was generated."""

    def whole(self, pieces: Sequence[Piece], end: End) -> Body:
        """The answer to a request without ``stream``."""
        ...

    def first(self) -> Body | None:
        """A chunk before any text, where the endpoint has one."""
        ...

    def chunk(self, piece: Piece) -> Body:
        """A chunk of text."""
        ...

    def final(self, end: End) -> Body:
        """The chunk that carries the finish reason."""
        ...

    def usage(self, end: End) -> Body | None:
        """The chunk after the final one, where the request wants usage."""
        ...


class Usage(TypedDict):
    """Tokens that went in and came out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


def usage_of(end: End) -> Usage:
    """``usage``."""
    return Usage(
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        total_tokens=end.prompt_tokens + end.completion_tokens,
        prompt_tokens_details={"cached_tokens": end.cached_tokens},
    )


def model_row(model: Model) -> Body:
    """One model of ``/v1/models``; ``parent`` and ``root`` as vLLM has them."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "chainlora",
        "root": model.root,
        "parent": model.parent,
    }


def cut_note(end: End) -> Body:
    """Our own field beside ``choices``: why a text ends early that has no other sign of it.

    The reference knows no finish reason for a server that shuts down; "length" is the one that
    clients take for an incomplete text.
    """
    return {"chainlora": {"ended_by": "shutdown"}} if end.cut else {}


def finite(logprob: float) -> float:
    """``logprob`` as JSON can hold it."""
    return max(LEAST_LOGPROB, logprob)


class TokenTexts:
    """Token ids as the texts and bytes of log-probability reports."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def chat(self, reports: Iterable[Report]) -> list[Body]:
        """``logprobs.content`` of chat completions."""
        return [
            {
                **self._token(report.token, report.logprobs.logprob),
                "top_logprobs": [self._token(*one) for one in report.logprobs.top],
            }
            for report in reports
        ]

    def legacy(self, reports: Sequence[Report]) -> Body:
        """``logprobs`` of completions: four parallel lists."""
        return {
            "tokens": [self._unique(report.token) for report in reports],
            "token_logprobs": [finite(report.logprobs.logprob) for report in reports],
            "top_logprobs": [self._top(report.token, report.logprobs) for report in reports],
            "text_offset": [report.offset for report in reports],
        }

    def _token(self, token: int, logprob: float) -> Body:
        data = self._tokenizer.token_bytes(token)
        return {
            "token": data.decode("utf-8", "replace"),
            "bytes": list(data),
            "logprob": finite(logprob),
        }

    def _top(self, drawn: int, logprobs: TokenLogprobs) -> Mapping[str, float]:
        """The alternatives and the token itself: the reference's "up to logprobs + 1"."""
        pairs = [*logprobs.top, (drawn, logprobs.logprob)]
        return {self._unique(token): finite(logprob) for token, logprob in pairs}

    def _unique(self, token: int) -> str:
        """Text where the bytes are text, else ``bytes:\\xe2\\x82``: keys must not collide."""
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def encode(body: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8, without NaN."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
