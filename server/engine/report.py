"""Log-probabilities of chosen tokens and of the best ones, under the model's own distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from adapters.base.elementwise import logsumexp
from server.core.messages import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Report:
    """Log-probabilities on their way from the device: row indices and arrays to evaluate."""

    rows: tuple[int, ...]
    arrays: tuple[mx.array, ...]
    alternatives: tuple[int, ...] = ()

    def keep(self, indices: Sequence[int]) -> Report:
        """The report of the rows at ``indices``, renumbered to their new places."""
        places = {old: new for new, old in enumerate(indices)}
        kept = [i for i, row in enumerate(self.rows) if row in places]
        if not kept:
            return Report((), ())
        return Report(
            tuple(places[self.rows[i]] for i in kept),
            tuple(array[mx.array(kept)] for array in self.arrays),
            tuple(self.alternatives[i] for i in kept) if self.alternatives else (),
        )

    def read(self) -> dict[int, TokenLogprobs]:
        """By row; waits for the device."""
        if not self.rows:
            return {}
        chosen: Any = self.arrays[0][:, 0].tolist()
        if len(self.arrays) == 1:
            return {
                row: TokenLogprobs(value, ()) for row, value in zip(self.rows, chosen, strict=True)
            }
        ids: Any = self.arrays[1].tolist()
        values: Any = self.arrays[2].tolist()
        return {
            row: TokenLogprobs(chosen[i], tuple(zip(ids[i], values[i], strict=True))[:most])
            for i, (row, most) in enumerate(zip(self.rows, self.alternatives, strict=True))
        }


def logprob_arrays(logits: mx.array, tokens: mx.array, most: int) -> tuple[mx.array, ...]:
    """What ``Report`` reads of ``tokens`` (rows,) from ``logits`` (rows, vocab), not evaluated.

    The tokens' log-probabilities (rows, 1); and where ``most`` is not 0 the ids and the values
    (rows, most) of the best tokens, best first.
    """
    logprobs = logits.astype(mx.float32)
    logprobs = logprobs - logsumexp(logprobs)[:, None]
    chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)
    if not most:
        return (chosen,)
    best = mx.argpartition(-logprobs, most - 1, axis=-1)[:, :most]
    values = mx.take_along_axis(logprobs, best, axis=-1)
    order = mx.argsort(-values, axis=-1)
    ids = mx.take_along_axis(best, order, axis=-1)
    return chosen, ids, mx.take_along_axis(values, order, axis=-1)


_SLICE_BYTES = 1 << 24
"""Float32 logits of which log-probabilities are made at once; some copies of them are."""


def prompt_logprobs(
    logits: mx.array, tokens: Sequence[int], alternatives: int
) -> tuple[TokenLogprobs, ...] | None:
    """The reports of ``tokens``, each drawn from its row of ``logits`` (tokens, vocab).

    None where one is not a number. Waits for the device.
    """
    found: list[TokenLogprobs] = []
    step = max(1, _SLICE_BYTES // (4 * logits.shape[-1]))
    for start in range(0, len(tokens), step):
        part = mx.array(list(tokens[start : start + step]))
        arrays = logprob_arrays(logits[start : start + step], part, alternatives)
        rows = tuple(range(part.size))
        read = Report(rows, arrays, (alternatives,) * part.size).read()
        found += [read[row] for row in rows]
    if not all(math.isfinite(one.logprob) for one in found):
        return None
    return tuple(found)
