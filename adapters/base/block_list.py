"""A model's list of blocks, and a way to stand between them during its own forward.

For the time of a forward the blocks in the model's list are put aside for slots, which let a
visitor decide what each gives. So masks, scaling, and whatever the model does between its blocks
come from the model's own code, unpatched; what is not needed is never evaluated.

That holds for models whose blocks take the hidden state first and return nothing else. Others are
told by ``NotSliceable`` or by other numbers: callers compare once, on a small input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

Visit = Callable[[int, Callable[[mx.array], mx.array], mx.array], mx.array]
"""What happens at block ``index``: (index, the block, its input) -> what the model goes on with."""


class NotSliceable(Exception):
    """The model's forward is not a chain of blocks."""


MISUSE = (
    NotSliceable,
    TypeError,
    AttributeError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
)
"""What Python code raises that is used otherwise than it expects; MLX's own failures are not here.
"""


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


class BlockList:
    """The list of blocks nearest to a model's root, ``count`` of them; device thread only.

    Raises NotSliceable where the model has none.
    """

    def __init__(self, model: Any) -> None:
        path, self._holder = _holder(model)
        self._prefix = f"{path}.layers." if path else "layers."
        self._list: list[Any] = self._holder["layers"]
        self.count = len(self._list)

    def block_of(self, name: str) -> int | None:
        """The block that a parameter or module lies in; None for those outside the blocks."""
        if not name.startswith(self._prefix):
            return None
        return int(name.removeprefix(self._prefix).split(".", 1)[0])

    @contextmanager
    def visiting(self, visit: Visit) -> Iterator[None]:
        """Every forward that is built inside asks ``visit`` at each block."""
        self._holder["layers"] = [
            _Slot(block, index, visit) for index, block in enumerate(self._list)
        ]
        try:
            yield
        finally:
            self._holder["layers"] = self._list


def _holder(model: Any) -> tuple[str, Any]:
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
