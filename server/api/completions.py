"""``POST /v1/completions``: the request as an Ask, the reply as OpenAI words it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from server.api.constraining import constraint_of
from server.api.encoded import Encoded
from server.api.generation import Ask
from server.api.parts import Parts
from server.api.rows import End
from server.api.sampling import sampling_of
from server.api.schema.completions import CompletionRequest
from server.api.schema.texts import Text
from server.api.transcript import Piece, Report
from server.api.wire import Answer, Body, TokenTexts, cut_note, usage_of
from server.core.ports import Tokenizer


def completion_ask(request: CompletionRequest, parts: Parts) -> Ask:
    """What ``request`` asks of the engine: a row for each candidate of each prompt."""
    logprobs = request.logprobs
    if request.candidates > request.choices and logprobs is None:
        logprobs = 0  # the best are told by it
    texts = tuple(prompt if isinstance(prompt, str) else None for prompt in request.prompt)
    return Ask(
        row_id=f"cmpl-{parts.new_id()}",
        model=request.model,
        prompts=tuple(partial(_encode, prompt) for prompt in request.prompt),
        prompt_field="prompt",
        max_tokens=request.most_tokens,
        sampling=sampling_of(request, logprobs=logprobs, draw_seed=parts.draw_seed),
        stops=request.stop,
        constraint=constraint_of(request),
        choices=request.candidates,
        priority=request.priority or 0,
        choices_field="n" if request.best_of is None else "best_of",
        echo=texts if request.echo else (),
        prompt_logprobs=request.logprobs if request.echo else None,
    )


def _encode(prompt: Text, tokenizer: Tokenizer) -> Encoded:
    return Encoded(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)


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

    def whole(self, answers: Sequence[Answer]) -> Body:
        """The best candidates of each prompt, in its prompt's place; usage counts them all."""
        request, kept = self._request, list[Answer]()
        for start in range(0, len(answers), request.candidates):
            candidates = answers[start : start + request.candidates]
            if request.candidates > request.choices:
                candidates = sorted(candidates, key=self._mean_logprob, reverse=True)
            kept += candidates[: request.choices]
        choices = [
            self._choice(
                index, answer.text, [*answer.reports, *_end_of(answer.end)], answer.end.reason
            )
            for index, answer in enumerate(kept)
        ]
        usage = usage_of([answer.end for answer in answers])
        return {**self._head, "choices": choices, "usage": usage}

    def first(self) -> list[Body]:
        """Completions have no chunk before the text."""
        return []

    def chunk(self, piece: Piece) -> Body | None:
        """A part of a text."""
        if not piece.text and not piece.reports:
            return None
        return self._chunk(self._choice(piece.index, piece.text, piece.reports, None))

    def final(self, end: End) -> Body:
        """No text, the finish reason, and the report of the end token."""
        choice = self._choice(end.index, "", _end_of(end) or None, end.reason)
        return {**self._chunk(choice), **cut_note(end)}

    def usage(self, ends: Sequence[End]) -> Body | None:
        """A chunk without choices."""
        if not self._with_usage:
            return None
        return {**self._head, "choices": [], "usage": usage_of(ends)}

    def _chunk(self, choice: Body) -> Body:
        usage = {"usage": None} if self._with_usage else {}
        return {**self._head, "choices": [choice], **usage}

    def _choice(
        self, index: int, text: str, reports: Sequence[Report] | None, finish_reason: str | None
    ) -> Body:
        reported = reports is not None and self._request.logprobs is not None
        return {
            "index": index,
            "text": text,
            "logprobs": self._texts.legacy(reports or ()) if reported else None,
            "finish_reason": finish_reason,
        }

    def _mean_logprob(self, answer: Answer) -> float:
        """Of the completion's tokens, the end among them; a text without any comes last."""
        pieces = answer.pieces[1:] if self._request.echo else answer.pieces
        reports = [report for piece in pieces for report in piece.reports]
        reports += _end_of(answer.end)
        found = [report.logprobs.logprob for report in reports if report.logprobs is not None]
        return math.fsum(found) / len(found) if found else -math.inf


def _end_of(end: End) -> list[Report]:
    """The end token's report is the last: who scores a text relies on a place for each token."""
    return [] if end.report is None else [end.report]
