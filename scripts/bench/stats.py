"""From time stamps to the figures that a report quotes. Pure: no I/O, no clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """One finished request. Times are seconds on one clock.

    ``chunks`` are the arrivals of pieces of text, in order, at least one. A server may put several
    tokens into one chunk, so token counts come from its usage report. ``text`` is the answer.
    """

    sent: float
    chunks: tuple[float, ...]
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    text: str = ""
    constrained: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of one load showed. Rates are tokens per second, times seconds.

    ``output_rate``: all output tokens over the time from the first request to the last chunk,
    prefill included. ``token_s``: a stream's time per token after its first, median over requests.
    ``gap_*``: pauses between chunks as a reader sees them, over all requests; 0 between chunks that
    arrived at once. Where some rows were constrained, ``token_s``, first tokens and gaps are those
    of the free ones.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    wall_s: float
    output_rate: float
    first_token_p50_s: float
    first_token_p95_s: float
    first_token_p99_s: float
    token_s: float
    gap_p50_s: float
    gap_p95_s: float
    gap_p99_s: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the largest value seen, over ``count`` values."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}-{self.high:.3g}]"


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of ``values`` lie, linear between neighbours.

    The definition of numpy's default: rank (n - 1) * percent / 100. Raises ValueError where
    ``values`` is empty or ``percent`` outside 0..100.
    """
    if not values:
        raise ValueError("a percentile of no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"{percent} is not a percentage")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def summarise(traces: Sequence[Trace]) -> Sample:
    """The sample of one run. Raises ValueError where there is nothing to summarise."""
    if not traces:
        raise ValueError("no request finished")
    watched = [trace for trace in traces if not trace.constrained] or traces
    first = [trace.chunks[0] - trace.sent for trace in watched]
    gaps = [
        later - earlier
        for trace in watched
        for earlier, later in zip(trace.chunks, trace.chunks[1:], strict=False)
    ] or [0.0]
    per_token = [
        (trace.chunks[-1] - trace.chunks[0]) / max(trace.output_tokens - 1, 1) for trace in watched
    ]
    wall = max(trace.chunks[-1] for trace in traces) - min(trace.sent for trace in traces)
    output = sum(trace.output_tokens for trace in traces)
    return Sample(
        requests=len(traces),
        prompt_tokens=sum(trace.prompt_tokens for trace in traces),
        output_tokens=output,
        cached_tokens=sum(trace.cached_tokens for trace in traces),
        wall_s=wall,
        output_rate=output / wall,
        first_token_p50_s=percentile(first, 50),
        first_token_p95_s=percentile(first, 95),
        first_token_p99_s=percentile(first, 99),
        token_s=statistics.median(per_token),
        gap_p50_s=percentile(gaps, 50),
        gap_p95_s=percentile(gaps, 95),
        gap_p99_s=percentile(gaps, 99),
    )


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest of ``values``; ValueError where there are none."""
    if not values:
        raise ValueError("the spread of no values")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def over(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> Spread:
    """The spread of one figure over repeated runs."""
    return spread([figure(sample) for sample in samples])


def ratio(
    upper: Sequence[Sample], lower: Sequence[Sample], figure: Callable[[Sample], float]
) -> Spread:
    """The spread of the quotients of pairs that ran in turn, ``upper[i] / lower[i]``.

    A quotient of medians would hide that both drift together. Raises ValueError for unequal counts.
    """
    pairs = zip(upper, lower, strict=True)
    return spread([figure(above) / figure(below) for above, below in pairs])
