"""A model's own forward, taken one block at a time.

A slot before the wanted block passes its input on, the wanted one computes, and the next one leaves
with what it was given (``adapters/base/block_list.py``).

That holds for models whose tail treats every position alone, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from adapters.base.block_list import BlockList, NotSliceable, Visit
from adapters.training.tree import Parameters, TrainingTree


class _Reached(Exception):
    def __init__(self, value: mx.array) -> None:
        super().__init__("the walk is where it was going")
        self.value = value


class Walk:
    """The pieces of a training tree's forward. ``count`` blocks; device thread only.

    Hidden states are (rows, length, width). Raises NotSliceable where the model has no list of
    blocks.
    """

    def __init__(self, tree: TrainingTree) -> None:
        self._tree = tree
        self._blocks = BlockList(tree.model)
        self.count = self._blocks.count

    def first(self, tokens: mx.array) -> mx.array:
        """The input of the first block."""

        def visit(_index: int, _block: Any, hidden: mx.array) -> mx.array:
            raise _Reached(hidden)

        return self._reach(tokens, visit)

    def block(self, index: int, tokens: mx.array, hidden: mx.array) -> mx.array:
        """From the input of block ``index`` to that of the next; of the last one, its output."""

        def visit(at: int, block: Callable[[mx.array], mx.array], passed: mx.array) -> mx.array:
            if at < index:
                return passed
            if at > index:
                raise _Reached(passed)
            made = block(hidden)
            if at == self.count - 1:
                raise _Reached(made)
            return made

        return self._reach(tokens, visit)

    def hidden(self, tokens: mx.array) -> mx.array:
        """The last block's output, in one go."""

        def visit(at: int, block: Callable[[mx.array], mx.array], passed: mx.array) -> mx.array:
            made = block(passed)
            if at == self.count - 1:
                raise _Reached(made)
            return made

        return self._reach(tokens, visit)

    def tail(self, tokens: mx.array, rows: mx.array) -> mx.array:
        """Logits (n, vocabulary) of ``rows`` (n, width) of the last block's output."""

        def visit(at: int, _block: Any, passed: mx.array) -> mx.array:
            return rows[None] if at == self.count - 1 else passed

        with self._blocks.visiting(visit):
            logits: mx.array = self._tree.model(tokens)
        return logits.reshape(-1, logits.shape[-1])

    def block_of(self, name: str) -> int:
        """The block that a parameter lies in; ``count`` for those outside the blocks."""
        block = self._blocks.block_of(name)
        return self.count if block is None else block

    def parameters(self, index: int) -> Parameters:
        """The trainable arrays of one block; of ``count``, those of the tail."""
        return {
            name: array
            for name, array in self._tree.parameters().items()
            if self.block_of(name) == index
        }

    def _reach(self, tokens: mx.array, visit: Visit) -> mx.array:
        with self._blocks.visiting(visit):
            try:
                self._tree.model(tokens)
            except _Reached as reached:
                return reached.value
        raise NotSliceable("the model's forward does not pass its list of blocks")
