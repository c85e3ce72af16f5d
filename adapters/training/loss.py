"""What is minimised: the mean cross-entropy of a step's supervised tokens, kept as sums.

A step's micro-batches add their sums of losses and of gradients; the number of tokens divides once,
at the end, so that a token weighs the same whichever rows it was computed with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from adapters.base.elementwise import logsumexp
from adapters.training.batches import Example
from adapters.training.tree import Parameters, TrainingTree

Ids = npt.NDArray[np.int32]

PAD = 0
"""Fills short rows on the right, where a causal model cannot see it; never a target."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one micro-batch on the host, padded on the right.

    ``tokens`` is (rows, length). For supervised token ``i``, ``places[i]`` is the flat index
    (row * length + position) that predicts it and ``targets[i]`` its id.
    """

    tokens: Ids
    places: Ids
    targets: Ids


def make_batch(examples: Sequence[Example]) -> Batch:
    """The batch of these rows, each cut behind the position that predicts its last target."""
    supervised = [[i for i, target in enumerate(each.mask) if target] for each in examples]
    length = max((places[-1] for places in supervised if places), default=1)
    tokens = np.full((len(examples), length), PAD, np.int32)
    places: list[int] = []
    targets: list[int] = []
    for row, (each, wanted) in enumerate(zip(examples, supervised, strict=True)):
        seen = each.tokens[: wanted[-1]] if wanted else ()
        tokens[row, : len(seen)] = seen
        places += [row * length + i - 1 for i in wanted]
        targets += [each.tokens[i] for i in wanted]
    return Batch(tokens, np.array(places, np.int32), np.array(targets, np.int32))


class Sums:
    """The sums of one optimizer step so far: loss (float32) and gradients. Device thread only."""

    def __init__(self) -> None:
        self.loss: mx.array | None = None
        self.gradients: Parameters = {}

    def add(self, loss: mx.array | None, gradients: Mapping[str, mx.array]) -> None:
        """Add and evaluate a part; parts are added in the order of the calls."""
        if loss is not None:
            self.loss = loss if self.loss is None else self.loss + loss
        for name, gradient in gradients.items():
            present = self.gradients.get(name)
            self.gradients[name] = gradient if present is None else present + gradient
        changed = [self.gradients[name] for name in gradients]
        mx.eval(changed if loss is None else [self.loss, *changed])

    def take_loss(self) -> float:
        """The sum of losses as a number; 0 where nothing was added. Clears the sums."""
        value = 0.0 if self.loss is None else number(self.loss)
        self.clear()
        return value

    def clear(self) -> None:
        """Free the arrays."""
        self.loss = None
        self.gradients.clear()


def summed_loss(logits: mx.array, targets: mx.array) -> mx.array:
    """The sum of cross-entropies in float32; logits (tokens, vocabulary), targets (tokens,)."""
    scores = logits.astype(mx.float32)
    picked = mx.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
    return mx.sum(logsumexp(scores) - picked)


def whole_loss(tree: TrainingTree, batch: Batch) -> mx.array:
    """The sum over ``batch`` by the model's own forward, all logits made: what must come out."""
    logits = tree.model(mx.array(batch.tokens))
    flat = logits.reshape(-1, logits.shape[-1])
    return summed_loss(flat[mx.array(batch.places)], mx.array(batch.targets))


def number(array: mx.array) -> float:
    """The value of a real scalar."""
    value = array.item()
    if isinstance(value, complex):
        raise TypeError("a real number is expected")
    return float(value)
