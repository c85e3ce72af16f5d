"""The shape of a LoRA adapter: what a chain inherits and every stage must keep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_IN_BLOCK = re.compile(r"(?:.*?\.)?layers\.(0|[1-9][0-9]{0,5})\.(.+)")


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted module: its path in the model, its rank and its features.

    Its A is (in_features, rank) and its B (rank, out_features).
    """

    path: str
    rank: int
    in_features: int
    out_features: int

    @property
    def block(self) -> int | None:
        """The number of the block that the module lies in, None outside the blocks."""
        found = _IN_BLOCK.fullmatch(self.path)
        return None if found is None else int(found[1])

    @property
    def key(self) -> str:
        """The path inside the block; outside the blocks, the whole path."""
        found = _IN_BLOCK.fullmatch(self.path)
        return self.path if found is None else found[2]


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What the arithmetic of adapters needs to know of a base.

    ``config`` is the model's own; ``linears`` are its linear layers, with rank 0; ``itemsize`` is
    that of its activations in bytes.
    """

    config: Mapping[str, Any]
    linears: tuple[Target, ...]
    itemsize: int


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Rank, scale and targets, as ``adapter_config.json`` states them.

    ``num_layers`` counts adapted blocks from the last one up, -1 for all. ``keys`` are module
    paths inside a block; None means every linear layer of the block. The update that a row gets
    is ``scale * (x @ A) @ B``.
    """

    rank: int
    scale: float
    num_layers: int
    keys: tuple[str, ...] | None = None
    dropout: float = 0.0

    def describe(self) -> str:
        """One line for people: ``rank 8, scale 20, last 16 blocks, q_proj and v_proj``."""
        blocks = "all blocks" if self.num_layers < 1 else f"last {self.num_layers} blocks"
        if self.keys is None:
            return f"rank {self.rank}, scale {self.scale:g}, {blocks}, every linear layer"
        *names, last = (key.rpartition(".")[2] for key in self.keys)
        keys = f"{', '.join(names)} and {last}" if names else last
        return f"rank {self.rank}, scale {self.scale:g}, {blocks}, {keys}"

    def contradictions(self, other: LoraShape) -> list[str]:
        """Where ``other`` differs in what a chain may not change, in words; empty where nowhere.

        The order of the keys means nothing, and dropout is a training setting that may differ.
        """
        pairs = [
            ("rank", self.rank, other.rank),
            ("scale", self.scale, other.scale),
            ("num_layers", self.num_layers, other.num_layers),
            ("keys", _sorted(self.keys), _sorted(other.keys)),
        ]
        return [f"{name} is {mine}, not {theirs}" for name, mine, theirs in pairs if mine != theirs]

    def misfits(self, targets: Iterable[Target]) -> list[str]:
        """Where modules that are there contradict this shape, in words; empty where nowhere.

        A module that the shape would allow and that is not there is no contradiction: its update
        is zero.
        """
        found: list[str] = []
        blocks: set[int] = set()
        for target in targets:
            if target.rank != self.rank:
                found.append(f"{target.path} has rank {target.rank}, the shape says {self.rank}")
            if not self._covers(target):
                found.append(f"{target.path} is not among the shape's targets")
            if target.block is not None:
                blocks.add(target.block)
        span = max(blocks) - min(blocks) + 1 if blocks else 0
        if 0 < self.num_layers < span:
            found.append(
                f"blocks {min(blocks)} to {max(blocks)} are adapted, the shape says the last "
                f"{self.num_layers}"
            )
        return found

    def _covers(self, target: Target) -> bool:
        if self.keys is None:
            return target.block is not None
        return target.key in self.keys or target.path in self.keys


def _sorted(keys: tuple[str, ...] | None) -> list[str] | str:
    return "every linear layer" if keys is None else sorted(set(keys))
