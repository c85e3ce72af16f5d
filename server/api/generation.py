"""From a checked request to the text of one row: name, prompt, queue, events, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.to_thread

from server.api.parts import Parts
from server.api.transcript import Piece, Transcript
from server.core.errors import DeadlineExceeded, InvalidRequest, PromptTooLong
from server.core.messages import (
    Constraint,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Sampling,
    Token,
)
from server.core.ports import Tokenizer

Encode = Callable[[Tokenizer], Sequence[int]]
"""Makes the prompt; runs on a thread of its own, because a long text takes long."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a checked request asks for. ``max_tokens`` None means whatever the context has left.

    ``row_id`` names the row in the engine and the answer to the client; ``prompt_field`` is the
    request's field that errors about the prompt name.
    """

    row_id: str
    model: str
    encode: Encode
    prompt_field: str
    max_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How a row ended. ``cut`` tells that the server stopped it to shut down. Counts are tokens."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cut: bool = False


Reply = AsyncGenerator[Piece | End, None]
"""One Piece for each token, possibly empty, one for what was held back, then one End."""


@asynccontextmanager
async def admitted(parts: Parts, ask: Ask) -> AsyncIterator[Reply]:
    """The reply to ``ask``, whose row is queued; its revision stays pinned until the exit.

    Raises on entry whatever keeps the row from being queued: UnknownModel, TwoAdapters,
    InvalidRequest, PromptTooLong, QueueFull, ShuttingDown, EngineFailed, DeadlineExceeded. The
    reply raises what the row failed with. Leaving the context ends the row, read or not.
    """
    deadline = _Deadline(parts.limits.request_timeout_s)
    with parts.catalog.pin(ask.model) as target:
        async with deadline.watch():
            prompt = await anyio.to_thread.run_sync(
                ask.encode, parts.tokenizer, abandon_on_cancel=True
            )
            if ask.constraint is not None:
                await anyio.to_thread.run_sync(
                    parts.engine.check, ask.constraint, abandon_on_cancel=True
                )
        request = Generate(
            request_id=ask.row_id,
            prompt=tuple(prompt),
            max_tokens=_completion_limit(ask, len(prompt), parts.tokenizer.max_context),
            sampling=ask.sampling,
            end_tokens=parts.tokenizer.end_tokens,
            revision=target.revision,
            flow=target.flow,
            constraint=ask.constraint,
        )
        _check_vocabulary(ask, prompt, parts.tokenizer.vocab_size)
        row = _Row(parts, request, deadline)
        reply = row.reply(Transcript(parts.tokenizer.detokenizer(), ask.stops))
        try:
            yield reply
        finally:
            with anyio.CancelScope(shield=True):
                await reply.aclose()
                await row.close()


class _Deadline:
    """The end of a request's life, counted from now."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._when = asyncio.get_running_loop().time() + limit_s

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Raises DeadlineExceeded if what happens inside lasts beyond the end."""
        try:
            async with asyncio.timeout_at(self._when) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"The request was not finished within {self._limit_s:g} s "
                "(request_timeout_s); ask for fewer tokens, or raise the setting."
            ) from None


class _Row:
    """A queued row and the one place where it ends."""

    def __init__(self, parts: Parts, request: Generate, deadline: _Deadline) -> None:
        self._engine = parts.engine
        self._request = request
        self._deadline = deadline
        self._events = self._engine.submit(request)
        self._ended = False

    async def reply(self, transcript: Transcript) -> Reply:
        while True:
            event = await self._next()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                yield transcript.finish()
                yield self._end(event, transcript)
                return
            yield transcript.add(event)
            if transcript.stopped:
                yield self._counted("stop", transcript, await self._cancelled())
                return

    async def close(self) -> None:
        """End the row in the engine if it still runs."""
        if not self._ended:
            self._engine.cancel(self._request.request_id)
        await self._events.aclose()

    async def _next(self) -> Event:
        async with self._deadline.watch():
            event = await anext(self._events)
        self._ended = not isinstance(event, Token)
        return event

    async def _cancelled(self) -> int:
        """End the row at a stop string; its last event, a step away, has the cached tokens."""
        self._engine.cancel(self._request.request_id)
        while not self._ended:
            event = await self._next()
        return event.cached_tokens if isinstance(event, Finished) else 0

    def _end(self, event: Finished, transcript: Transcript) -> End:
        if event.reason is FinishReason.STOP or transcript.stopped:
            return self._counted("stop", transcript, event.cached_tokens)
        cut = event.reason is FinishReason.CANCELLED
        return self._counted("length", transcript, event.cached_tokens, cut=cut)

    def _counted(
        self,
        reason: Literal["stop", "length"],
        transcript: Transcript,
        cached_tokens: int,
        *,
        cut: bool = False,
    ) -> End:
        prompt_tokens = len(self._request.prompt)
        return End(reason, prompt_tokens, transcript.tokens, cached_tokens, cut)


def _completion_limit(ask: Ask, prompt_tokens: int, context: int) -> int:
    if not prompt_tokens:
        raise InvalidRequest("The prompt has no tokens; say something.", param=ask.prompt_field)
    room = context - prompt_tokens
    wanted = ask.max_tokens or max(room, 1)
    if wanted > room:
        raise PromptTooLong(
            f"The model's context holds {context} tokens, but {prompt_tokens + wanted} are asked "
            f"for: {prompt_tokens} in the prompt and {wanted} for the completion. Shorten the "
            "prompt or lower max_tokens.",
            param=ask.prompt_field,
        )
    return wanted


def _check_vocabulary(ask: Ask, prompt: Sequence[int], vocabulary: int) -> None:
    biased = [token for token, _ in ask.sampling.logit_bias]
    for tokens, field in ((prompt, ask.prompt_field), (biased, "logit_bias")):
        wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise InvalidRequest(
                f"{field}: there is no token {wrong}; the model has the ids 0 to {vocabulary - 1}.",
                param=field,
            )
