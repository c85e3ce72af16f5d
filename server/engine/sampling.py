"""One batched sampler for all rows of a decode batch.

Order of operations, as most servers have it: what a constraint allows, logit bias, penalties,
temperature, top-k, top-p, min-p, draw. Log-probabilities are reported from the logits as the model
gave them, and a row whose logits are not all finite draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from adapters.base.elementwise import softmax
from server.core.messages import Sampling
from server.engine.draw import draw, keep_min_p, keep_top_k, keep_top_p, uniform
from server.engine.masks import FREE, Guide
from server.engine.report import Report, logprob_arrays

NO_TOKEN = -1
"""What a row draws whose logits are not finite."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What the sampler must know of a row: settings, prompt, and tokens generated so far."""

    sampling: Sampling
    prompt: Sequence[int]
    generated: Sequence[int]


class _Bias:
    """Sparse additions to the logits."""

    def __init__(self, rows: Sequence[SamplingRow]) -> None:
        entries = [
            (index, token, bias)
            for index, row in enumerate(rows)
            for token, bias in row.sampling.logit_bias
        ]
        self._rows = mx.array([entry[0] for entry in entries])
        self._tokens = mx.array([entry[1] for entry in entries])
        self._bias = mx.array([entry[2] for entry in entries], mx.float32)

    def apply(self, logits: mx.array) -> mx.array:
        """Biased logits of the whole batch."""
        return logits.at[self._rows, self._tokens].add(self._bias)


class _Penalties:
    """Penalties of the rows that ask for them, and the counts that they need.

    Presence and frequency: OpenAI's formula over generated tokens. Repetition: Keskar et al. 2019
    over prompt and generated tokens.
    """

    def __init__(
        self, rows: Sequence[SamplingRow], indices: list[int], vocabulary: int, pending: mx.array
    ) -> None:
        self._indices = mx.array(indices)
        chosen = [rows[index] for index in indices]
        self._counts = _counts([row.generated for row in chosen], vocabulary)
        self._prompts = _counts([row.prompt for row in chosen], vocabulary) > 0
        settings = [row.sampling for row in chosen]
        self._presence = _column([each.presence_penalty for each in settings])
        self._frequency = _column([each.frequency_penalty for each in settings])
        self._repetition = _column([each.repetition_penalty for each in settings])
        self.count(pending)

    def count(self, tokens: mx.array) -> None:
        """Count one further token per row of the batch; -1 counts nothing."""
        chosen = tokens[self._indices]
        rows = mx.arange(chosen.size)
        real = (chosen >= 0).astype(mx.float32)
        self._counts = self._counts.at[rows, mx.maximum(chosen, 0)].add(real)

    def apply(self, logits: mx.array) -> mx.array:
        """Penalised logits of the whole batch."""
        chosen = logits[self._indices]
        seen = self._counts > 0
        repeated = mx.where(chosen > 0, chosen / self._repetition, chosen * self._repetition)
        chosen = mx.where(seen | self._prompts, repeated, chosen)
        chosen = chosen - self._frequency * self._counts - self._presence * seen
        return mx.put_along_axis(
            logits, mx.broadcast_to(self._indices[:, None], chosen.shape), chosen, axis=0
        )


class _Filters:
    """Temperature and filters of the rows that draw."""

    def __init__(self, settings: Sequence[Sampling]) -> None:
        self._temperature = _column([each.temperature for each in settings])
        self._top_k = [each.top_k for each in settings]
        self._top_p = [each.top_p for each in settings]
        self._min_p = [each.min_p for each in settings]

    def apply(self, logits: mx.array) -> mx.array:
        """Weights to draw by."""
        logits = logits / self._temperature
        if any(self._top_k):
            vocabulary = logits.shape[-1]
            ranks = [min(k, vocabulary) or vocabulary for k in self._top_k]
            most = max(rank for rank, k in zip(ranks, self._top_k, strict=True) if k)
            border = mx.array([[min(rank, most)] for rank in ranks])
            limited = keep_top_k(logits, border, most)
            free = mx.array([[not k] for k in self._top_k])
            logits = mx.where(free, logits, limited)
        weights = softmax(logits)
        if min(self._top_p) < 1:
            weights = keep_top_p(weights, _column(self._top_p))
        if max(self._min_p) > 0:
            weights = keep_min_p(weights, _column(self._min_p))
        return weights


class BatchSampler:
    """Samples the next token of every row of one batch composition.

    ``pending`` holds, per row, a token that was sampled but is not yet part of ``generated``, or
    -1; it may be unevaluated.
    """

    def __init__(self, rows: Sequence[SamplingRow], vocabulary: int, pending: mx.array) -> None:
        settings = [row.sampling for row in rows]
        self._seeds = [each.seed for each in settings]
        self._drawing = [index for index, each in enumerate(settings) if each.temperature > 0]
        self._filters = _Filters([settings[index] for index in self._drawing])
        penalised = [index for index, each in enumerate(settings) if has_penalty(each)]
        self._penalties = _Penalties(rows, penalised, vocabulary, pending) if penalised else None
        self._bias = _Bias(rows) if any(each.logit_bias for each in settings) else None
        self._reporting = [i for i, each in enumerate(settings) if each.logprobs is not None]
        self._alternatives = [each.logprobs or 0 for each in settings]
        self._ones = mx.ones((vocabulary, 1))

    def sample(
        self, logits: mx.array, positions: Sequence[int], guide: Guide | None = None
    ) -> tuple[mx.array, Report]:
        """Token ids (rows,) from ``logits`` (rows, vocab), and what was asked about them.

        The id is NO_TOKEN where a row's logits are not all finite. ``positions`` are the output
        positions that the rows sample for. Nothing is evaluated, except where a nucleus needs it.
        """
        raw = logits = logits.astype(mx.float32)
        if guide is not None and guide.allowed is not None:
            logits = _masked(logits, guide.masked, guide.allowed)
        if self._bias is not None:
            logits = self._bias.apply(logits)
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        if self._drawing:
            chosen = mx.array(self._drawing)
            everyone = len(self._drawing) == logits.shape[0]
            weights = self._filters.apply(logits if everyone else logits[chosen])
            uniforms = [uniform(self._seeds[i], positions[i]) for i in self._drawing]
            drawn = draw(weights, _column(uniforms)).astype(tokens.dtype)
            tokens = drawn if everyone else tokens.at[chosen].add(drawn - tokens[chosen])
        if guide is not None and any(token != FREE for token in guide.forced):
            forced = mx.array(guide.forced, tokens.dtype)
            tokens = mx.where(forced == FREE, tokens, forced)
        if self._penalties is not None:
            self._penalties.count(tokens)
        return mx.where(self._sound(raw), tokens, NO_TOKEN), self._report(raw, tokens)

    def _sound(self, logits: mx.array) -> mx.array:
        """By row, whether every logit is finite, or their sum at least.

        A product with ones gives that sum in 0.1 ms for 16 rows of 49,152 on two CPU cores, where
        ``mx.sum`` takes 2.1 and ``mx.isfinite`` of each logit 3.2.
        """
        return mx.isfinite(logits @ self._ones)[:, 0]

    def _report(self, logits: mx.array, tokens: mx.array) -> Report:
        if not self._reporting:
            return Report((), ())
        rows = mx.array(self._reporting)
        alternatives = tuple(self._alternatives[index] for index in self._reporting)
        arrays = logprob_arrays(logits[rows], tokens[rows], max(alternatives))
        return Report(tuple(self._reporting), arrays, alternatives)


def _masked(logits: mx.array, rows: tuple[int, ...], allowed: mx.array) -> mx.array:
    """Logits with what ``rows`` may not draw at -inf."""
    if len(rows) == logits.shape[0]:
        return mx.where(allowed, logits, -mx.inf)
    chosen = mx.array(rows)
    masked = mx.where(allowed, logits[chosen], -mx.inf)
    return mx.put_along_axis(logits, mx.broadcast_to(chosen[:, None], masked.shape), masked, axis=0)


def has_penalty(sampling: Sampling) -> bool:
    """Whether a token's chances depend on those before it beyond the model."""
    return bool(
        sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1.0
    )


def _column(values: Sequence[float]) -> mx.array:
    return mx.array([[value] for value in values], mx.float32)


def _counts(sequences: Sequence[Sequence[int]], vocabulary: int) -> mx.array:
    rows = [index for index, tokens in enumerate(sequences) for _ in tokens]
    tokens = [token for sequence in sequences for token in sequence]
    counts = mx.zeros((len(sequences), vocabulary), mx.float32)
    if not tokens:
        return counts
    return counts.at[mx.array(rows), mx.array(tokens)].add(mx.ones(len(tokens), mx.float32))
