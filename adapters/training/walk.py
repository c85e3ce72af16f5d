"""A model's own forward, taken one block at a time.

The blocks in the model's list are put aside for slots that know where the walk stands: a slot
before the wanted block passes its input on, the wanted one computes, and the next one leaves with
what it was given. So masks, scaling, and whatever the model does between its blocks come from the
model's own code, unpatched; what is not needed is never evaluated.

That holds for models whose blocks take the hidden state first and return nothing else, and whose
tail treats every position alone. Others are told by ``NotSliceable`` or by other numbers: callers
compare once, on a small input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from adapters.training.tree import Parameters, TrainingTree

Visit = Callable[[int, Callable[[mx.array], mx.array], mx.array], mx.array]
"""What happens at block ``index``: (index, the block, its input) -> what the model goes on with."""


class NotSliceable(Exception):
    """The model's forward is not a chain of blocks."""


class _Reached(Exception):
    def __init__(self, value: mx.array) -> None:
        super().__init__("the walk is where it was going")
        self.value = value


class _Slot:
    """Stands in the list of blocks for one of them."""

    def __init__(self, block: Any, index: int, visit: Visit) -> None:
        self._block = block
        self._index = index
        self._visit = visit

    def __call__(self, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        def block(inner: mx.array) -> mx.array:
            return _array(self._block(inner, *args, **kwargs))

        return self._visit(self._index, block, _array(hidden))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


class Walk:
    """The pieces of a training tree's forward. ``count`` blocks; device thread only.

    Hidden states are (rows, length, width). Raises NotSliceable where the model has no list of
    blocks.
    """

    def __init__(self, tree: TrainingTree) -> None:
        self._tree = tree
        path, self._holder = _blocks(tree.model)
        self._prefix = f"{path}.layers." if path else "layers."
        self._list: list[Any] = self._holder["layers"]
        self.count = len(self._list)

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

        with self._slots(visit):
            logits: mx.array = self._tree.model(tokens)
        return logits.reshape(-1, logits.shape[-1])

    def block_of(self, name: str) -> int:
        """The block that a parameter lies in; ``count`` for those outside the blocks."""
        if not name.startswith(self._prefix):
            return self.count
        return int(name.removeprefix(self._prefix).split(".", 1)[0])

    def parameters(self, index: int) -> Parameters:
        """The trainable arrays of one block; of ``count``, those of the tail."""
        return {
            name: array
            for name, array in self._tree.parameters().items()
            if self.block_of(name) == index
        }

    def _reach(self, tokens: mx.array, visit: Visit) -> mx.array:
        with self._slots(visit):
            try:
                self._tree.model(tokens)
            except _Reached as reached:
                return reached.value
        raise NotSliceable("the model's forward does not pass its list of blocks")

    @contextmanager
    def _slots(self, visit: Visit) -> Iterator[None]:
        self._holder["layers"] = [
            _Slot(block, index, visit) for index, block in enumerate(self._list)
        ]
        try:
            yield
        finally:
            self._holder["layers"] = self._list


def _blocks(model: Any) -> tuple[str, Any]:
    """Path and module that holds the list of blocks: the one nearest to the root."""
    found = [
        (path, module) for path, module in model.named_modules() if _is_blocks(module.get("layers"))
    ]
    if not found:
        raise NotSliceable("the model has no list of blocks called layers")
    return min(found, key=lambda each: each[0].count(".") + bool(each[0]))


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list) and value != [] and isinstance(value[0], Module)


def _array(value: Any) -> mx.array:
    if not isinstance(value, mx.array):
        raise NotSliceable(f"a block takes or gives a {type(value).__name__}, not one array")
    return value
