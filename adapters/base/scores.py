"""What a model makes of a small text: the figures that tell two forms of one model apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import mlx.core as mx

from adapters.errors import DataError

MOST_TOKENS = 512
"""So many tokens of a text are read: some seconds on a small model, two minutes on 7B by CPU."""

_WINDOW = 256
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Scores:
    """For each predicted token: its log-probability in nats, and the token that was likeliest."""

    log_probabilities: tuple[float, ...]
    best: tuple[int, ...]

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability; infinite where it overflows."""
        mean = -math.fsum(self.log_probabilities) / len(self.log_probabilities)
        return math.exp(mean) if mean < 700 else math.inf


@dataclass(frozen=True, slots=True)
class Change:
    """How far one model's scores are from another's, on the same tokens.

    ``largest`` and ``mean`` are absolute differences of log-probabilities in nats, ``agreement``
    is the share of positions at which both hold the same token for the likeliest.
    """

    tokens: int
    largest: float
    mean: float
    agreement: float
    perplexity_before: float
    perplexity_after: float

    @property
    def rise(self) -> float:
        """The rise of perplexity as a share of what it was; negative where it fell."""
        return self.perplexity_after / self.perplexity_before - 1


def check_text(file: Path | None) -> str:
    """The text to check on: of ``file``, or the one that comes with us.

    Raises DataError where the file cannot be read as UTF-8 text or is empty or over a mebibyte.
    """
    if file is None:
        return (files("adapters.base") / "check.txt").read_text("utf-8")
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text ({error}): give a UTF-8 file.") from error
    if len(data) > _MOST_BYTES or not text.strip():
        raise DataError(f"{file} is empty or over 1 MiB: a page of plain text is enough to check.")
    return text


def first_tokens(encode: Callable[[str], list[int]], text: str) -> list[int]:
    """The first MOST_TOKENS tokens of ``text``, without reading much more of it than that."""
    length = 2 * MOST_TOKENS
    while len(tokens := encode(text[:length])) < MOST_TOKENS and length < len(text):
        length *= 2
    return tokens[:MOST_TOKENS]


def scores(forward: Callable[[mx.array], mx.array], tokens: Sequence[int]) -> Scores:
    """Scores of all ``tokens`` but the first, read in windows that overlap by one.

    ``forward`` maps ids (1, n) to logits (1, n, vocabulary). Raises DataError for fewer than two
    tokens.
    """
    given = list(tokens)
    if len(given) < 2:
        raise DataError("The text to check on has fewer than two tokens: give a page of text.")
    found: list[float] = []
    best: list[int] = []
    for start in range(0, len(given) - 1, _WINDOW):
        window = given[start : start + _WINDOW + 1]
        logits = forward(mx.array([window[:-1]]))[0].astype(mx.float32)
        wanted = mx.take_along_axis(logits, mx.array(window[1:])[:, None], axis=-1)[:, 0]
        picked = wanted - mx.logsumexp(logits, axis=-1)
        likeliest = mx.argmax(logits, axis=-1)
        mx.eval(picked, likeliest)
        found += [float(value) for value in picked.tolist()]  # type: ignore[union-attr, arg-type]
        best += [int(value) for value in likeliest.tolist()]  # type: ignore[union-attr, arg-type]
    return Scores(tuple(found), tuple(best))


def change(before: Scores, after: Scores) -> Change:
    """How far ``after`` is from ``before``; both are of the same tokens."""
    pairs = list(zip(before.log_probabilities, after.log_probabilities, strict=True))
    apart = [abs(one - other) for one, other in pairs]
    same = sum(one == other for one, other in zip(before.best, after.best, strict=True))
    return Change(
        tokens=len(pairs),
        largest=max(apart),
        mean=math.fsum(apart) / len(apart),
        agreement=same / len(pairs),
        perplexity_before=before.perplexity,
        perplexity_after=after.perplexity,
    )
