"""``POST /v1/embeddings``: texts as rows of the engine that are read and not continued."""

from __future__ import annotations

import array
import base64
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.generation import FIRST_ROWS, check_vocabulary
from server.api.parts import Parts
from server.api.reading import json_response, read_body
from server.api.respond import ClientGone, unless_disconnected
from server.api.rows import Deadline
from server.api.schema.embeddings import EmbeddingsRequest
from server.api.schema.texts import Text
from server.api.wire import Body
from server.core.errors import InvalidRequest, PromptTooLong, QueueFull, ShuttingDown
from server.core.messages import Failed, Finished, FinishReason, Generate, Pooled, Sampling
from server.core.ports import Events, Target, Tokenizer
from server.core.vectors import unit

MOST_TOKENS = 300_000
"""Of all texts of a request: the reference's own limit."""

_AT_ONCE = 16
"""Rows of a request in the engine at a time. The queue's other places are for other requests."""


def embedding_routes(parts: Parts) -> APIRouter:
    """``/v1/embeddings``."""
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=None)
    async def embeddings(request: Request) -> Response:
        asked, headers = await read_body(EmbeddingsRequest, request, parts)
        return EmbeddingsResponse(parts, asked, headers)

    return router


class EmbeddingsResponse(Response):
    """Embeds when it is sent. The revision is pinned, and rows are alive, only meanwhile."""

    def __init__(self, parts: Parts, asked: EmbeddingsRequest, extra: dict[str, str]) -> None:
        super().__init__()
        self._parts, self._asked, self._extra = parts, asked, extra

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Embed and answer; whatever happens, the rows end and the pin is given back."""
        try:
            body = await unless_disconnected(receive, lambda: _embed(self._parts, self._asked))
        except ClientGone:
            return
        await json_response(body, self._extra)(scope, receive, send)


async def _embed(parts: Parts, asked: EmbeddingsRequest) -> Body:
    deadline = Deadline(parts.limits.request_timeout_s)
    with parts.catalog.pin(asked.model) as target:
        async with deadline.watch():
            texts = await anyio.to_thread.run_sync(
                _encoded, asked.input, parts.tokenizer, abandon_on_cancel=True
            )
            rows = _rows(asked, texts, parts.new_id(), target)
            found = [_vector(mean, asked) async for mean in _means(parts, rows)]
    tokens = sum(map(len, texts))
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _encoded(texts: Sequence[Text], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The texts' tokens. Raises InvalidRequest or PromptTooLong for what cannot be embedded."""
    found: list[tuple[int, ...]] = []
    total = 0
    for index, text in enumerate(texts):
        field = f"input[{index}]" if len(texts) > 1 else "input"
        tokens = tuple(tokenizer.encode(text)) if isinstance(text, str) else text
        check_vocabulary(tokens, field, tokenizer.vocab_size)
        if not tokens:
            raise InvalidRequest(f"{field}: the text has no tokens.", param=field)
        if len(tokens) > tokenizer.max_context:
            raise PromptTooLong(
                f"{field}: the text has {len(tokens)} tokens, and the model's context holds "
                f"{tokenizer.max_context}. Shorten or split it.",
                param=field,
            )
        total += len(tokens)
        if total > MOST_TOKENS:
            raise InvalidRequest(
                f"input: the texts have more than {MOST_TOKENS} tokens together; send several "
                "requests.",
                param="input",
            )
        found.append(tokens)
    return found


def _rows(
    asked: EmbeddingsRequest, texts: Sequence[tuple[int, ...]], name: str, target: Target
) -> list[Generate]:
    return [
        Generate(
            request_id=f"embd-{name}-{index}",
            prompt=tokens,
            max_tokens=0,
            sampling=Sampling(seed=0),
            end_tokens=frozenset(),
            revision=target.revision,
            flow=target.flow,
            priority=(asked.priority or 0) + (index >= FIRST_ROWS),
            pooled=True,
        )
        for index, tokens in enumerate(texts)
    ]


async def _means(parts: Parts, rows: Sequence[Generate]) -> AsyncIterator[tuple[float, ...]]:
    """The rows' means, in order. Where the queue is full, rows follow as those before them end.

    Raises QueueFull where not even the first finds a place, and what a row failed with.
    """
    waiting, running = deque(rows), deque[Events]()
    try:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                try:
                    running.append(parts.engine.submit(waiting[0]))
                except QueueFull:
                    if not running:
                        raise
                    break
                waiting.popleft()
            yield await _mean(running[0])
            running.popleft()
    finally:
        with anyio.CancelScope(shield=True):
            for events in running:
                await events.aclose()


async def _mean(events: Events) -> tuple[float, ...]:
    mean: tuple[float, ...] = ()
    async for event in events:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Pooled):
            mean = event.mean
        if isinstance(event, Finished) and event.reason is FinishReason.CANCELLED:
            raise ShuttingDown(
                "The server is shutting down and had to stop this request; send it again."
            )
    return mean


def _vector(mean: Sequence[float], asked: EmbeddingsRequest) -> list[float] | str:
    wanted = asked.dimensions
    if wanted is not None and wanted > len(mean):
        raise InvalidRequest(
            f"dimensions: this model's states have {len(mean)} numbers; ask for that many at most.",
            param="dimensions",
        )
    vector = unit(mean, wanted)
    if asked.encoding_format != "base64":
        return vector
    packed = array.array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode("ascii")
