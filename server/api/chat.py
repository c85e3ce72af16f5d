"""``POST /v1/chat/completions``: the request as an Ask, the reply as OpenAI words it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from server.api.generation import Ask, End
from server.api.parts import Parts
from server.api.sampling import sampling_of
from server.api.schema.chat import ChatRequest
from server.api.transcript import Piece
from server.api.wire import Body, TokenTexts, cut_note, usage_of
from server.core.ports import Tokenizer


def chat_ask(request: ChatRequest, parts: Parts) -> Ask:
    """What ``request`` asks of the engine."""
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return Ask(
        row_id=f"chatcmpl-{parts.new_id()}",
        model=request.model,
        encode=partial(_encode, [message.for_template() for message in request.messages]),
        prompt_field="messages",
        max_tokens=request.most_tokens,
        sampling=sampling_of(request, logprobs=logprobs, draw_seed=parts.draw_seed),
        stops=request.stop,
    )


def _encode(messages: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode_chat(messages, template_kwargs={})


class ChatShape:
    """Chat completions and their chunks."""

    def __init__(self, request: ChatRequest, ask: Ask, parts: Parts) -> None:
        self._request = request
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._texts = TokenTexts(parts.tokenizer)
        self._head: Body = {
            "id": ask.row_id,
            "object": "chat.completion.chunk" if request.stream else "chat.completion",
            "created": int(parts.clock()),
            "model": request.model,
            "system_fingerprint": parts.fingerprint,
        }
        if request.service_tier is not None:
            self._head["service_tier"] = "default"

    def whole(self, pieces: Sequence[Piece], end: End) -> Body:
        """The ``chat.completion`` object."""
        choice = {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "".join(piece.text for piece in pieces),
                "refusal": None,
            },
            "logprobs": self._logprobs(pieces),
            "finish_reason": end.reason,
        }
        body = {**self._head, "choices": [choice], "usage": usage_of(end)}
        if self._request.metadata is not None:
            body["metadata"] = self._request.metadata
        return body

    def first(self) -> Body:
        """The chunk that carries the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def chunk(self, piece: Piece) -> Body:
        """A chunk of content."""
        return self._chunk({"content": piece.text}, logprobs=self._logprobs([piece]))

    def final(self, end: End) -> Body:
        """An empty delta with the finish reason."""
        return {**self._chunk({}, finish_reason=end.reason), **cut_note(end)}

    def usage(self, end: End) -> Body | None:
        """A chunk without choices."""
        if not self._with_usage:
            return None
        return {**self._head, "choices": [], "usage": usage_of(end)}

    def _logprobs(self, pieces: Sequence[Piece]) -> Body | None:
        if not self._request.logprobs:
            return None
        reports = [report for piece in pieces for report in piece.reports]
        return {"content": self._texts.chat(reports), "refusal": None}

    def _chunk(
        self, delta: Body, *, logprobs: Body | None = None, finish_reason: str | None = None
    ) -> Body:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        usage = {"usage": None} if self._with_usage else {}
        return {**self._head, "choices": [choice], **usage}
