"""A model entered and left between two blocks: what chains share below their adapted blocks.

An adapter's *cut* is the lowest block that it adapts. Below the cut the KV, and at the cut the
residual stream, are those of the base, so that every chain with that cut can go on from them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx

from adapters.base.block_list import MISUSE, BlockList
from adapters.lora import ResidentAdapter
from adapters.lora.routes import Route
from server.engine.residual import Cut
from server.engine.rows import Forward

_LEAST_SHARE = 4
"""A cut counts from this part of the blocks on: a quarter saves at most a quarter of the work."""

_TOLERANCE = 1e-2


class Cuts:
    """The cuts of one model; device thread only."""

    def __init__(self, forward: Forward, blocks: BlockList) -> None:
        self._forward = forward
        self._blocks = blocks
        self._per_block = len(forward.make_caches()) // blocks.count

    @classmethod
    def of(cls, forward: Forward) -> Cuts | None:
        """None where the model cannot be entered between blocks: tried once, on a few tokens."""
        try:
            cuts = cls(forward, BlockList(forward.model))
            return cuts if cuts._agree() else None
        except MISUSE:
            return None

    def cut(self, adapter: ResidentAdapter | None) -> Cut | None:
        """Where an adapter begins; None for the base and where too little lies below."""
        if adapter is None:
            return None
        lowest = min(self._blocks.block_of(path) or 0 for path in adapter.modules)
        if lowest * _LEAST_SHARE < self._blocks.count:
            return None
        return self._at(lowest)

    def above(self, cut: Cut) -> float:
        """The part of the blocks that lies above a cut, from 0 to 1."""
        return 1 - cut.block / self._blocks.count

    def tapping(
        self, cuts: Collection[Cut], into: dict[Cut, mx.array]
    ) -> AbstractContextManager[None]:
        """A forward inside leaves the residual stream (rows, length, width) at each cut."""
        wanted = {cut.block: cut for cut in cuts}

        def visit(index: int, block: Any, hidden: mx.array) -> mx.array:
            if index in wanted:
                into[wanted[index]] = hidden
            made: mx.array = block(hidden)
            return made

        return self._blocks.visiting(visit)

    def enter(self, cut: Cut, stream: mx.array, caches: Sequence[Any], route: Route) -> mx.array:
        """Logits of a forward that begins at the cut, with ``stream`` (rows, length, width).

        ``caches`` are those of the blocks above, which it extends lazily.
        """

        def visit(index: int, block: Any, hidden: mx.array) -> mx.array:
            if index < cut.block:
                return hidden
            made: mx.array = block(stream if index == cut.block else hidden)
            return made

        # The model takes masks and positions from any of them; the blocks below are not run.
        every = [*list(caches[: self._per_block]) * cut.block, *caches]
        with self._blocks.visiting(visit):
            return self._forward(mx.zeros(stream.shape[:2], mx.int32), every, route)

    def _at(self, block: int) -> Cut:
        return Cut(block, block * self._per_block)

    def _agree(self) -> bool:
        """Whether two pieces entered in the middle come out as the whole forward's."""
        cut = self._at(self._blocks.count // 2)
        if (
            not cut.block
            or len(self._forward.make_caches()) != self._per_block * self._blocks.count
        ):
            return False
        route = self._forward.router.plan([None])
        whole, entered = self._forward.make_caches(), self._forward.make_caches()[cut.caches :]
        for tokens in ([[1, 2, 3]], [[4, 5]]):
            tapped: dict[Cut, mx.array] = {}
            with self.tapping([cut], tapped):
                expected = self._forward(mx.array(tokens), whole, route)
            found = self.enter(cut, tapped[cut], entered, route)
        return bool(mx.allclose(expected, found, rtol=_TOLERANCE, atol=_TOLERANCE))
