"""``POST /v1/completions``: the request as an Ask, the reply as OpenAI words it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from server.api.generation import Ask, End
from server.api.parts import Parts
from server.api.sampling import sampling_of
from server.api.schema.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from server.api.transcript import Piece
from server.api.wire import Body, TokenTexts, cut_note, usage_of
from server.core.ports import Tokenizer


def completion_ask(request: CompletionRequest, parts: Parts) -> Ask:
    """What ``request`` asks of the engine."""
    return Ask(
        row_id=f"cmpl-{parts.new_id()}",
        model=request.model,
        encode=partial(_encode, request.prompt),
        prompt_field="prompt",
        max_tokens=request.max_tokens or DEFAULT_MAX_TOKENS,
        sampling=sampling_of(request, logprobs=request.logprobs, draw_seed=parts.draw_seed),
        stops=request.stop,
    )


def _encode(prompt: str | tuple[int, ...], tokenizer: Tokenizer) -> Sequence[int]:
    return tokenizer.encode(prompt) if isinstance(prompt, str) else prompt


class CompletionShape:
    """Text completions; streamed or not, they are the same object."""

    def __init__(self, request: CompletionRequest, ask: Ask, parts: Parts) -> None:
        self._request = request
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._texts = TokenTexts(parts.tokenizer)
        self._head: Body = {
            "id": ask.row_id,
            "object": "text_completion",
            "created": int(parts.clock()),
            "model": request.model,
            "system_fingerprint": parts.fingerprint,
        }

    def whole(self, pieces: Sequence[Piece], end: End) -> Body:
        """The whole text."""
        return {**self._completion(pieces, end.reason), "usage": usage_of(end)}

    def first(self) -> None:
        """Completions have no chunk before the text."""
        return

    def chunk(self, piece: Piece) -> Body:
        """A part of the text."""
        return self._chunk([piece], None)

    def final(self, end: End) -> Body:
        """No text, and the finish reason."""
        return {**self._chunk([], end.reason), **cut_note(end)}

    def usage(self, end: End) -> Body | None:
        """A chunk without choices."""
        if not self._with_usage:
            return None
        return {**self._head, "choices": [], "usage": usage_of(end)}

    def _chunk(self, pieces: Sequence[Piece], finish_reason: str | None) -> Body:
        usage = {"usage": None} if self._with_usage else {}
        return {**self._completion(pieces, finish_reason), **usage}

    def _completion(self, pieces: Sequence[Piece], finish_reason: str | None) -> Body:
        choice = {
            "index": 0,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(pieces),
            "finish_reason": finish_reason,
        }
        return {**self._head, "choices": [choice]}

    def _logprobs(self, pieces: Sequence[Piece]) -> Body | None:
        if self._request.logprobs is None or not pieces:
            return None
        return self._texts.legacy([report for piece in pieces for report in piece.reports])
