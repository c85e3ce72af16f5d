"""The rows of the fake engine and what they say."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from server.core.messages import Generate, Pooled, TokenLogprobs
from server.engine.stream import RowStream
from tests.fake_constraints import Constrained

Script = Callable[[Generate], Iterable[int]]
"""What a row generates; the row ends with STOP where it runs out."""


def letters(request: Generate) -> Iterator[int]:
    """Endless lower-case letters: a function of prompt, revision and seed alone."""
    row = repr((request.prompt, request.revision, request.sampling.seed)).encode()
    for position in itertools.count():
        digest = hashlib.blake2b(row + position.to_bytes(4, "big"), digest_size=1).digest()
        yield ord("a") + digest[0] % 26


def saying(text: str) -> Script:
    """Every row says ``text``, byte by byte, and ends."""
    return lambda _: text.encode()


@dataclass(eq=False)
class Row:
    """A row of the fake engine, waiting or running."""

    request: Generate
    tokens: Iterator[int]
    constrained: Constrained
    events: RowStream
    produced: int = 0


def logprob_of(token: int) -> float:
    """Of every token the same."""
    del token
    return -0.5


def logprobs_of(token: int, alternatives: int | None) -> TokenLogprobs | None:
    """The token first, then the capitals."""
    if alternatives is None:
        return None
    first = logprob_of(token)
    ids = [token, *(ord("A") + rank for rank in range(alternatives))]
    top = tuple((one, first - rank) for rank, one in enumerate(ids))
    return TokenLogprobs(first, top[:alternatives])


def pooled(request: Generate) -> Pooled:
    """Eight numbers of either sign: a function of prompt and revision alone."""
    row = repr((request.prompt, request.revision)).encode()
    digest = hashlib.blake2b(row, digest_size=8).digest()
    return Pooled(tuple((byte - 127.5) / 16 for byte in digest))
