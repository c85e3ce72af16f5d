"""What the device thread owns, and the numbers that it works by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mlx.nn.layers.base import Module

from adapters.base.quantized_kv import KVQuantization
from adapters.formats.mlx_lm import AdapterFiles


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine: counts of rows, tokens, bytes and seconds.

    ``reserve_tokens`` is what a row without a short ``max_tokens`` is reserved beyond its prompt;
    where rows grow past the KV budget, the least urgent is preempted and computed again later.
    Rows that need ``queue_kv_factor`` times that budget may wait.
    ``prefix_cache_bytes`` 0 keeps no prefix. ``speculate`` lets rows draw several tokens in one
    step where that is expected to win. ``train_share`` is the share of the device's time that lent
    pieces get while rows are served.
    """

    max_rows: int
    prefill_rows: int
    prefill_block_s: float
    queue_limit: int
    event_queue_limit: int
    adapter_budget_bytes: int
    kv_budget_tokens: int
    queue_kv_factor: int = 16
    prefix_cache_bytes: int = 0
    speculate: bool = True
    train_share: float = 0.25
    reserve_tokens: int = 512
    most_prefill_tokens: int = 2048

    def expected(self, prompt: int, max_tokens: int) -> int:
        """Tokens that a row is reserved to hold."""
        return prompt + min(max_tokens, self.reserve_tokens)

    @property
    def most_guessed_tokens(self) -> int:
        """Tokens that a row may guess ahead in one step, so few that a reader can keep up."""
        return self.event_queue_limit // 4 if self.speculate else 0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The base on the device: module tree, output width, and its compute type's name.

    ``kv`` is how keys and values are kept, None in that type.
    """

    model: Module
    vocabulary: int
    dtype: str
    kv: KVQuantization | None = None


LoadModel = Callable[[], LoadedModel]
"""Loads the base; called once, on the device thread."""


class AdapterSource(Protocol):
    """Where adapters come from."""

    def read(self, revision: str) -> AdapterFiles:
        """The revision's arrays in host memory; raises AdapterError or OSError. Any thread."""
        ...

    def registered(self) -> int:
        """How many adapters there are."""
        ...


Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Shapes of (A, B) by module path."""


def shapes_of(files: AdapterFiles) -> Shapes:
    """What ``Router.check`` compares with the base."""
    return {path: (a.shape, b.shape) for path, (a, b) in files.tensors.items()}
