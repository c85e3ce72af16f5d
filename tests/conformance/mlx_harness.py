"""The MLX engine on the tiny model, with a hand on its device."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.base.load import load_base
from adapters.base.tokenizer import load_tokenizer
from adapters.formats.mlx_lm import read_adapter
from adapters.formats.revision import revision_id
from server.core.ports import Engine
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars
from tests.directory_adapters import DirectoryAdapters

_PROBES = 3
"""Forwards that the worker runs before it is ready, which no hand holds."""


class MlxHarness:
    """The device is held and broken where a forward begins."""

    context = 128

    def __init__(self, model: Path, adapter: Path) -> None:
        self._model = model
        self._adapter = adapter
        self._tokenizer = load_tokenizer(model)
        self.end_tokens = self._tokenizer.end_tokens
        self._open = threading.Event()
        self._open.set()
        self._broken = False
        self.revision = revision_id(read_adapter(adapter))

    def engine(self, *, queue_limit: int, max_rows: int, event_queue_limit: int) -> Engine:
        """The real engine with these limits."""
        limits = Limits(
            max_rows=max_rows,
            prefill_rows=4,
            prefill_block_s=0.05,
            queue_limit=queue_limit,
            event_queue_limit=event_queue_limit,
            adapter_budget_bytes=1 << 26,
            kv_budget_tokens=self.context,
            queue_kv_factor=1000,
            prefix_cache_bytes=1 << 22,
        )
        self._engine = MlxEngine(
            self._load,
            limits,
            DirectoryAdapters({self.revision: self._adapter}),
            grammars=Grammars(lambda: grammar_tokens(self._tokenizer)),
        )
        return self._engine

    def prompt(self, number: int) -> tuple[int, ...]:
        """The first tokens of a short text."""
        return tuple(self._tokenizer.encode(f"say {number}"))[:12]

    def text(self, tokens: Sequence[int]) -> str:
        """The text, by the tokenizer's own detokenizer."""
        detokenizer = self._tokenizer.detokenizer()
        return "".join([*map(detokenizer.add, tokens), detokenizer.finish()])

    def hold(self) -> None:
        """Close the gate before the next forward."""
        self._open.clear()

    def release(self) -> None:
        """Open the gate."""
        self._open.set()

    def run_ahead(self, tokens: int) -> None:
        """Block this thread, which is the event loop's; the device has its own."""
        until = time.monotonic() + 60
        while self._engine.stats().generated_tokens < tokens:
            assert time.monotonic() < until, "the device generates nothing"
            time.sleep(0.001)

    def break_device(self) -> None:
        """Make the next forward raise."""
        self._broken = True
        self._open.set()

    def _load(self) -> LoadedModel:
        base = load_base(self._model)
        model: Any = base.model
        plain = type(model)
        calls = 0

        def forward(module: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > _PROBES:
                self._open.wait(60)
            if self._broken:
                raise RuntimeError("the device broke")
            return plain.__call__(module, *arguments, **options)

        # This instance alone: a gate around the model would change its modules' paths.
        model.__class__ = type(plain.__name__, (plain,), {"__call__": forward})
        return LoadedModel(model, self._tokenizer.vocab_size, base.compute.dtype)
