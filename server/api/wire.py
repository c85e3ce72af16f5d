"""The objects that OpenAI's API answers with, and their streamed halves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict

from server.api.rows import End
from server.api.transcript import Piece, Report
from server.core.messages import TokenLogprobs
from server.core.ports import Model, Tokenizer
from server.core.spoken import Spoken

LEAST_LOGPROB = -9999.0
"""What the reference writes where a token is all but impossible; JSON has no infinity."""

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """All that one row said."""

    pieces: tuple[Piece, ...]
    end: End

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def spoken(self) -> list[Spoken]:
        """What the text says, where it was read for that."""
        return [event for piece in self.pieces for event in piece.spoken]

    @property
    def reports(self) -> list[Report]:
        """The reports of all its tokens."""
        return [report for piece in self.pieces for report in piece.reports]


class Shape(Protocol):
    """How one endpoint words what was generated."""

    def whole(self, answers: Sequence[Answer]) -> Body:
        """The answer to a request without ``stream``, from those of its rows by index."""
        ...

    def first(self) -> Sequence[Body]:
        """The chunks before any text, where the endpoint has some."""
        ...

    def chunk(self, piece: Piece) -> Body | None:
        """A chunk of text; None where there is nothing to tell yet."""
        ...

    def final(self, end: End) -> Body:
        """The chunk that carries a row's finish reason."""
        ...

    def usage(self, ends: Sequence[End]) -> Body | None:
        """The chunk after the last final one, where the request wants usage."""
        ...


class Usage(TypedDict):
    """Tokens that went in and came out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: NotRequired[dict[str, int]]


def usage_of(ends: Sequence[End]) -> Usage:
    """``usage`` of all rows of a request; a prompt counts once, however many choices it has.

    The tokens of reasoning are told of models that mark it.
    """
    prompts = [end for end in ends if end.choice == 0]
    prompt_tokens = sum(end.prompt_tokens for end in prompts)
    completion_tokens = sum(end.completion_tokens for end in ends)
    usage = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details={"cached_tokens": sum(end.cached_tokens for end in prompts)},
    )
    reasoning = [end.reasoning_tokens for end in ends if end.reasoning_tokens is not None]
    if reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": sum(reasoning)}
    return usage


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
            if report.logprobs is not None
        ]

    def legacy(self, reports: Sequence[Report]) -> Body:
        """``logprobs`` of completions: four parallel lists; null for a prompt's first token."""
        found = [report.logprobs for report in reports]
        return {
            "tokens": [self._unique(report.token) for report in reports],
            "token_logprobs": [None if one is None else finite(one.logprob) for one in found],
            "top_logprobs": [
                None if one is None else self._top(report.token, one)
                for report, one in zip(reports, found, strict=True)
            ],
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
