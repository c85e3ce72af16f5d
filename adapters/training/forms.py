"""The forms of a micro-batch's loss and gradient: in short pieces, or in one.

``Sliced`` keeps the activations between blocks and goes back through them one at a time, so that
nothing blocks the device for long; ``Fused`` differentiates the whole. Both give the same sums, bit
for bit where products of the same shape have the same bits. ``Whole`` uses nothing but the model's
own forward: what the others are held to, and what is used where a model cannot be sliced.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import mlx.core as mx

from adapters.training.loss import Batch, Sums, summed_loss, whole_loss
from adapters.training.memory import head_rows
from adapters.training.tree import Parameters, TrainingTree
from adapters.training.walk import Walk

Piece = Callable[[], None]


class Form(Protocol):
    """How a micro-batch is computed: pieces to be called in order on the device thread."""

    name: str

    def training(self, batch: Batch, sums: Sums) -> Iterator[Piece]:
        """Add the batch's loss and gradients to ``sums``."""
        ...

    def measuring(self, batch: Batch, sums: Sums) -> Iterator[Piece]:
        """Add the batch's loss in evaluation mode to ``sums``."""
        ...


class OnePiece(ABC):
    """A form whose every micro-batch is one piece."""

    name: str

    def __init__(self, tree: TrainingTree) -> None:
        self._tree = tree

    def training(self, batch: Batch, sums: Sums) -> Iterator[Piece]:
        """One piece: loss and gradients."""
        yield lambda: sums.add(*_differentiated(self._tree, partial(self._loss, batch)))

    def measuring(self, batch: Batch, sums: Sums) -> Iterator[Piece]:
        """One piece: the loss."""

        def piece() -> None:
            with self._tree.evaluating():
                sums.add(self._loss(batch), {})

        yield piece

    @abstractmethod
    def _loss(self, batch: Batch) -> mx.array:
        """The sum over the batch's supervised tokens."""


class Whole(OnePiece):
    """The model's own forward, all logits made."""

    name = "whole"

    def _loss(self, batch: Batch) -> mx.array:
        return whole_loss(self._tree, batch)


class Fused(OnePiece):
    """Logits at supervised positions only, the head in chunks."""

    name = "fused"

    def __init__(self, tree: TrainingTree) -> None:
        super().__init__(tree)
        self._walk = Walk(tree)
        self._chunk = chunk_rows(self._walk)

    def _loss(self, batch: Batch) -> mx.array:
        tokens, targets = mx.array(batch.tokens), mx.array(batch.targets)
        rows = _gathered(self._walk.hidden(tokens), batch)
        parts = [
            slice(start, start + self._chunk) for start in range(0, len(batch.targets), self._chunk)
        ]
        return _added(
            [summed_loss(self._walk.tail(tokens, rows[part]), targets[part]) for part in parts]
        )


class Sliced:
    """A piece for each block and direction, and for each chunk of the head.

    The backward pass stops at the lowest adapted block: nothing below has a gradient.
    """

    name = "sliced"

    def __init__(self, tree: TrainingTree) -> None:
        self.tree = tree
        self.walk = Walk(tree)
        self.chunk = chunk_rows(self.walk)
        self.lowest = min(map(self.walk.block_of, tree.parameters()))

    def training(self, batch: Batch, sums: Sums) -> Iterator[Piece]:
        """Forward, head with its gradient, backward."""
        run = _SlicedBatch(self, batch, sums)
        for index in range(self.walk.count):
            yield partial(run.forward, index)
        # From the last chunk to the first: the order in which Fused's gradient meets them.
        for start in reversed(range(0, len(batch.targets), self.chunk)):
            yield partial(run.head, start)
        for index in range(self.walk.count - 1, self.lowest - 1, -1):
            yield partial(run.backward, index)
        yield run.clear

    def measuring(self, batch: Batch, sums: Sums) -> Iterator[Piece]:
        """Forward and head."""
        run = _SlicedBatch(self, batch, sums)
        steps: list[Piece] = [partial(run.forward, index) for index in range(self.walk.count)]
        steps += [
            partial(run.measured_head, start)
            for start in reversed(range(0, len(batch.targets), self.chunk))
        ]
        for step in [*steps, run.clear]:
            yield partial(self._evaluated, step)

    def _evaluated(self, step: Piece) -> None:
        with self.tree.evaluating():
            step()


class _SlicedBatch:
    """The arrays of one micro-batch between its pieces; device thread only."""

    def __init__(self, form: Sliced, batch: Batch, sums: Sums) -> None:
        self._form = form
        self._walk = form.walk
        self._batch = batch
        self._sums = sums
        self._inputs: dict[int, mx.array] = {}
        self._cotangents: list[mx.array] = []
        # Of this batch alone: sums over batches are sums of these.
        self._losses: list[mx.array] = []
        self._head = Sums()

    def forward(self, index: int) -> None:
        tokens = self._tokens()
        if index == 0:
            self._inputs[0] = self._walk.first(tokens)
        made = self._segment(index, self._inputs[index])
        mx.eval(made)
        self._inputs[index + 1] = made
        # Kept for the way back only where there is one.
        if index < self._form.lowest:
            del self._inputs[index]

    def head(self, start: int) -> None:
        parameters = self._walk.parameters(self._walk.count)

        def loss(parameters: Parameters, rows: mx.array) -> mx.array:
            with self._form.tree.using(parameters):
                return self._chunk_loss(start, rows)

        differentiated: Any = mx.value_and_grad(loss, argnums=(0, 1))
        value, (gradients, cotangent) = differentiated(parameters, self._chunk(start))
        self._head.add(None, gradients)
        mx.eval(cotangent)
        self._cotangents.insert(0, cotangent)
        self._add_loss(start, value)

    def measured_head(self, start: int) -> None:
        self._add_loss(start, self._chunk_loss(start, self._chunk(start)))

    def backward(self, index: int) -> None:
        cotangent = (
            self._cotangents[0] if len(self._cotangents) == 1 else mx.concatenate(self._cotangents)
        )
        present = self._walk.parameters(index)
        names = list(present)
        hidden = self._inputs.pop(index)
        self._inputs.pop(index + 1, None)

        def segment(*arrays: mx.array) -> list[mx.array]:
            inner = arrays[len(names)] if index > self._form.lowest else hidden
            with self._form.tree.using(dict(zip(names, arrays, strict=False))):
                return [self._segment(index, inner)]

        primals = [present[name] for name in names]
        if index > self._form.lowest:
            primals.append(hidden)
        _, found = mx.vjp(segment, primals, [cotangent])
        self._sums.add(None, dict(zip(names, found, strict=False)))
        self._cotangents = found[len(names) :]
        mx.eval(self._cotangents)

    def clear(self) -> None:
        self._inputs.clear()
        self._cotangents.clear()
        self._losses.clear()
        self._head.clear()

    def _add_loss(self, start: int, value: mx.array) -> None:
        mx.eval(value)
        self._losses.insert(0, value)
        if start == 0:
            self._sums.add(_added(self._losses), self._head.gradients)

    def _tokens(self) -> mx.array:
        return mx.array(self._batch.tokens)

    def _segment(self, index: int, hidden: mx.array) -> mx.array:
        made = self._walk.block(index, self._tokens(), hidden)
        return _gathered(made, self._batch) if index == self._walk.count - 1 else made

    def _chunk(self, start: int) -> mx.array:
        return self._inputs[self._walk.count][start : start + self._form.chunk]

    def _chunk_loss(self, start: int, rows: mx.array) -> mx.array:
        targets = mx.array(self._batch.targets[start : start + self._form.chunk])
        return summed_loss(self._walk.tail(self._tokens(), rows), targets)


def chunk_rows(walk: Walk) -> int:
    """Rows of this model's head that are computed at once."""
    token = mx.zeros((1, 1), mx.int32)
    return head_rows(walk.tail(token, walk.first(token)[0]).shape[-1])


def _added(losses: Sequence[mx.array]) -> mx.array:
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


def _differentiated(
    tree: TrainingTree, loss: Callable[[], mx.array]
) -> tuple[mx.array, Parameters]:
    def with_parameters(parameters: Parameters) -> mx.array:
        with tree.using(parameters):
            return loss()

    differentiated: Any = mx.value_and_grad(with_parameters)
    value, gradients = differentiated(tree.parameters())
    return value, gradients


def _gathered(hidden: mx.array, batch: Batch) -> mx.array:
    return hidden.reshape(-1, hidden.shape[-1])[mx.array(batch.places)]
