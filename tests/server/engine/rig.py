"""An engine on the tiny model, and rows of its base and adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.base.load import load_base
from adapters.base.quantized_kv import KVQuantization
from adapters.base.tokenizer import load_tokenizer
from adapters.formats.mlx_lm import read_adapter
from adapters.formats.revision import revision_id
from server.core.messages import Event, Finished, Generate, Sampling, Token
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars
from tests.directory_adapters import DirectoryAdapters

LIMITS = Limits(
    max_rows=16,
    prefill_rows=4,
    prefill_block_s=0.05,
    queue_limit=64,
    event_queue_limit=512,
    adapter_budget_bytes=1 << 26,
    kv_budget_tokens=1 << 16,
    prefix_cache_bytes=1 << 24,
)
QUESTIONS = ("What is a rudder?", "Who waters the garden at noon?", "Tell me about bread.")


class Bench:
    """An engine on the tiny model, and rows by adapter name."""

    def __init__(
        self,
        model: Path,
        adapters: dict[str, Path],
        limits: Limits,
        kv: KVQuantization | None = None,
    ) -> None:
        self.tokenizer = load_tokenizer(model)
        self.revisions = {name: revision_id(read_adapter(path)) for name, path in adapters.items()}
        directories = {self.revisions[name]: path for name, path in adapters.items()}

        def load() -> LoadedModel:
            base = load_base(model)
            return LoadedModel(base.model, self.tokenizer.vocab_size, base.compute.dtype, kv)

        self.engine = MlxEngine(
            load,
            limits,
            DirectoryAdapters(directories),
            grammars=Grammars(lambda: grammar_tokens(self.tokenizer)),
        )
        self._count = 0

    async def run(
        self, name: str | None, number: int, *, temperature: float = 0.0, max_tokens: int = 24
    ) -> list[Event]:
        """Every event of one row."""
        prompt = self.tokenizer.encode(QUESTIONS[number % len(QUESTIONS)])
        sampling = Sampling(seed=number, temperature=temperature)
        return await self.ask(self.row(name, prompt, sampling, max_tokens=max_tokens))

    def row(
        self,
        name: str | None,
        prompt: Sequence[int],
        sampling: Sampling | None = None,
        *,
        max_tokens: int = 24,
    ) -> Generate:
        """A row without end tokens, greedy where nothing else is said."""
        self._count += 1
        return Generate(
            request_id=f"row-{self._count}",
            prompt=tuple(prompt),
            max_tokens=max_tokens,
            sampling=sampling or Sampling(seed=0, temperature=0.0),
            end_tokens=frozenset(),
            revision=None if name is None else self.revisions[name],
            flow=name or "",
        )

    async def ask(self, row: Generate) -> list[Event]:
        """Every event of a row."""
        return [event async for event in self.engine.submit(row)]


def tokens(events: list[Event]) -> list[int]:
    """The tokens of a row that ended as it should."""
    assert isinstance(events[-1], Finished), events[-1]
    return [event.token for event in events if isinstance(event, Token)]


@asynccontextmanager
async def running(
    model: Path,
    adapters: dict[str, Path],
    limits: Limits = LIMITS,
    kv: KVQuantization | None = None,
) -> AsyncIterator[Bench]:
    """A started engine, stopped at the end and found whole."""
    bench = Bench(model, adapters, limits, kv)
    await bench.engine.start()
    try:
        yield bench
        assert bench.engine.stats().integrity == "ok"
    finally:
        await bench.engine.stop(grace_s=0)
