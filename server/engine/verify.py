"""One forward over what rows are guessed to draw, and what they do draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from adapters.lora.routes import Route
from server.core.errors import ServeError
from server.core.messages import Token, TokenLogprobs
from server.engine.masks import Masks
from server.engine.ragged import RaggedKVCache
from server.engine.rows import Forward, Row
from server.engine.sampling import NO_TOKEN, BatchSampler


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that a row drew; None where it must end, its logits not finite or by ``failure``.

    ``is_whole`` tells that it completes a constrained text, which nothing can follow.
    """

    row: Row
    token: Token | None
    failure: ServeError | None = None
    is_whole: bool = False

    @classmethod
    def of(cls, row: Row, token: int, logprobs: TokenLogprobs | None) -> Drawn:
        """From what the sampler gave; a constrained row's matcher takes it here."""
        matcher = row.matcher
        if token == NO_TOKEN or matcher is None:
            return cls(row, None if token == NO_TOKEN else Token(token, logprobs))
        if (failure := matcher.failure()) is not None:
            return cls(row, None, failure)
        matcher.take(token)
        return cls(row, Token(token, logprobs), is_whole=matcher.is_whole)


def verify(
    forward: Forward,
    route: Route,
    caches: Sequence[RaggedKVCache],
    rows: Sequence[Row],
    proposals: Sequence[Sequence[int]],
    masks: Masks,
) -> list[list[Drawn]]:
    """What each row draws: the proposed tokens that it draws itself, and one more.

    The caches hold all but each row's last token, before and after. Every position is drawn as it
    would be alone, so the tokens are those of decoding one by one.
    """
    pieces = [[row.last, *proposal] for row, proposal in zip(rows, proposals, strict=True)]
    length = max(map(len, pieces))
    logits = forward(
        mx.array([piece + [0] * (length - len(piece)) for piece in pieces]), caches, route
    )
    logits = logits.reshape(-1, logits.shape[-1])
    places = [(index, place) for index, piece in enumerate(pieces) for place in range(len(piece))]
    if len(places) < logits.shape[0]:
        logits = logits[mx.array([index * length + place for index, place in places])]
    settings = [row.sampling_row() for row in rows]
    pending = mx.array([NO_TOKEN] * len(places))
    sampler = BatchSampler([settings[index] for index, _ in places], forward.vocabulary, pending)
    positions = [len(rows[index].generated) + place for index, place in places]
    start_forward: Any = mx.async_eval
    start_forward(logits)
    guide = masks.guide([row.matcher for row in rows], proposals)
    tokens, report = sampler.sample(logits, positions, guide)
    values: Any = tokens.tolist()
    logprobs = report.read()
    runs: list[list[Drawn]] = []
    start = 0
    for row, proposal in zip(rows, proposals, strict=True):
        stop = start + 1 + _agreement(proposal, values[start:])
        runs.append([Drawn.of(row, values[at], logprobs.get(at)) for at in range(start, stop)])
        start += 1 + len(proposal)
    for cache in caches:
        cache.roll_back([length - len(run) for run in runs])
    return runs


def _agreement(proposal: Sequence[int], values: Sequence[int]) -> int:
    """How many of the proposed tokens were drawn, up to the first that was not."""
    for count, (guess, value) in enumerate(zip(proposal, values, strict=False)):
        if guess != value:
            return count
    return len(proposal)
