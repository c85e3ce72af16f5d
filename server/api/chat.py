"""``POST /v1/chat/completions``: the request as an Ask, the reply as OpenAI words it."""

from __future__ import annotations

from collections.abc import Sequence

from server.api.chat_conversation import conversation_of
from server.api.constraining import constraint_of
from server.api.conversing import encoding
from server.api.generation import Ask
from server.api.parts import Parts
from server.api.rows import End
from server.api.sampling import sampling_of
from server.api.schema.chat import ChatRequest
from server.api.spoken_wire import delta_fields, message_fields
from server.api.transcript import Piece, Report
from server.api.wire import Answer, Body, TokenTexts, cut_note, usage_of


def chat_ask(request: ChatRequest, parts: Parts) -> Ask:
    """What ``request`` asks of the engine."""
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    constraint = constraint_of(request)
    encode = encoding(conversation_of(request), effort=request.reasoning_effort, answer=constraint)
    return Ask(
        row_id=f"chatcmpl-{parts.new_id()}",
        model=request.model,
        prompts=(encode,),
        prompt_field="messages",
        max_tokens=request.most_tokens,
        sampling=sampling_of(request, logprobs=logprobs, draw_seed=parts.draw_seed),
        stops=request.stop,
        constraint=constraint,
        choices=request.choices,
        priority=request.priority or 0,
    )


class ChatShape:
    """Chat completions and their chunks."""

    def __init__(self, request: ChatRequest, ask: Ask, parts: Parts) -> None:
        self._request = request
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._texts = TokenTexts(parts.tokenizer)
        self._row_id = ask.row_id
        self._head: Body = {
            "id": ask.row_id,
            "object": "chat.completion.chunk" if request.stream else "chat.completion",
            "created": int(parts.clock()),
            "model": request.model,
            "system_fingerprint": parts.fingerprint,
        }
        if request.service_tier is not None:
            self._head["service_tier"] = "default"

    def whole(self, answers: Sequence[Answer]) -> Body:
        """The ``chat.completion`` object."""
        choices = [self._choice(answer) for answer in answers]
        usage = usage_of([answer.end for answer in answers])
        body = {**self._head, "choices": choices, "usage": usage}
        if self._request.metadata is not None:
            body["metadata"] = self._request.metadata
        return body

    def first(self) -> list[Body]:
        """The chunks that carry the role, one for each choice.

        Where calls may follow, no content is given yet: there may never be one.
        """
        content = None if self._request.tools else ""
        role = {"role": "assistant", "content": content, "refusal": None}
        return [self._chunk(index, role) for index in range(self._request.choices)]

    def chunk(self, piece: Piece) -> Body | None:
        """A chunk of what is said, thought and called."""
        delta = delta_fields(piece.spoken, self._row_id, piece.index)
        if not delta and not (self._request.logprobs and piece.reports):
            return None
        return self._chunk(piece.index, delta, logprobs=self._logprobs(piece.reports))

    def final(self, end: End) -> Body:
        """An empty delta with the finish reason."""
        return {**self._chunk(end.index, {}, finish_reason=end.reason), **cut_note(end)}

    def usage(self, ends: Sequence[End]) -> Body | None:
        """A chunk without choices."""
        if not self._with_usage:
            return None
        return {**self._head, "choices": [], "usage": usage_of(ends)}

    def _choice(self, answer: Answer) -> Body:
        return {
            "index": answer.end.index,
            "message": {
                "role": "assistant",
                **message_fields(answer.spoken, self._row_id, answer.end.index),
                "refusal": None,
            },
            "logprobs": self._logprobs(answer.reports),
            "finish_reason": answer.end.reason,
        }

    def _logprobs(self, reports: Sequence[Report]) -> Body | None:
        if not self._request.logprobs:
            return None
        return {"content": self._texts.chat(reports), "refusal": None}

    def _chunk(
        self,
        index: int,
        delta: Body,
        *,
        logprobs: Body | None = None,
        finish_reason: str | None = None,
    ) -> Body:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        usage = {"usage": None} if self._with_usage else {}
        return {**self._head, "choices": [choice], **usage}
