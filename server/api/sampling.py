"""The sampling fields of a request as the engine takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from server.api.schema.fields import DrawingRequest
from server.core.messages import Sampling

_SEEDS = 2**64


def sampling_of(
    request: DrawingRequest, *, logprobs: int | None, draw_seed: Callable[[], int]
) -> Sampling:
    """How to draw; a field that is absent or null has the reference's default.

    ``top_p`` 0 keeps nothing but the best token, which is what temperature 0 means. A negative
    seed is taken modulo 2**64, so that every seed of the reference is a different one.
    """
    seed = draw_seed() if request.seed is None else request.seed % _SEEDS
    temperature = 1.0 if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    penalty = request.repetition_penalty
    return Sampling(
        seed=seed,
        temperature=temperature if top_p > 0 else 0.0,
        top_p=top_p if top_p > 0 else 1.0,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=1.0 if penalty is None else penalty,
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        logprobs=logprobs,
    )


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one of a prompt's choices, below 2**64; the first choice has ``seed`` itself.

    A hash, because the draws of neighbouring seeds may be the same ones a position apart.
    """
    if not choice:
        return seed
    mixed = hashlib.blake2b(f"{seed} {choice}".encode(), digest_size=8)
    return int.from_bytes(mixed.digest(), "big")
