"""What constrained rows cost the free rows beside them: ``python -m scripts.bench_constrain``.

Batches of eight rows take turns in one process: all free, half of them constrained by a schema, and
half by a pattern without forced tokens. What counts is the process's time by decode step, the best
of several turns; guessing ahead is off, so that every step draws one token of each row.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import replace
from pathlib import Path

from adapters.base.load import load_base, resolve_model
from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.formats.mlx_lm import AdapterFiles
from server.core.constraints import json_schema
from server.core.messages import Constraint, Generate, Sampling
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars
from server.settings import Settings

_ROWS = 8
_PEOPLE = {
    "type": "array",
    "minItems": 50,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 20, "maxLength": 60},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["new", "old", "gone"]}, "minItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
}
_KINDS: dict[str, Constraint | None] = {
    "all free": None,
    "half by a schema": json_schema(_PEOPLE),
    "half by a pattern": Constraint("regex", r"([A-Za-z ,]{1,40}[.?!] ){20,}"),
}
_LIMITS = Limits(
    max_rows=_ROWS,
    prefill_rows=_ROWS,
    prefill_block_s=1.0,
    queue_limit=_ROWS,
    event_queue_limit=4096,
    adapter_budget_bytes=1 << 20,
    kv_budget_tokens=1 << 15,
    speculate=False,
)


class _NoAdapters:
    def read(self, revision: str) -> AdapterFiles:
        """Never asked."""
        raise OSError(revision)

    def registered(self) -> int:
        """None."""
        return 0


async def _turn(
    engine: MlxEngine, tokenizer: BaseTokenizer, constraint: Constraint | None, tokens: int
) -> tuple[float, float]:
    """Seconds of the process and of the clock by step of one batch."""
    prompt = tuple(tokenizer.encode("Tell me about the people who live here."))
    free = Generate("", prompt, tokens, Sampling(seed=0), frozenset())
    rows = [
        replace(
            free,
            request_id=str(number),
            sampling=Sampling(seed=number),
            constraint=constraint if number % 2 else None,
        )
        for number in range(_ROWS)
    ]
    steps, cpu, clock = engine.stats().steps, time.process_time(), time.perf_counter()

    async def read(row: Generate) -> None:
        async for _ in engine.submit(row):
            pass

    await asyncio.gather(*map(read, rows))
    done = engine.stats().steps - steps
    return (time.process_time() - cpu) / done, (time.perf_counter() - clock) / done


async def _measure(path: Path, turns: int, tokens: int) -> dict[str, tuple[float, float]]:
    tokenizer = load_tokenizer(path)

    def load() -> LoadedModel:
        base = load_base(path)
        return LoadedModel(base.model, tokenizer.vocab_size, base.compute.dtype)

    grammars = Grammars(lambda: grammar_tokens(tokenizer))
    engine = MlxEngine(load, _LIMITS, _NoAdapters(), grammars=grammars)
    await engine.start()
    best: dict[str, tuple[float, float]] = {}
    try:
        for turn in range(turns + 1):
            for kind, constraint in _KINDS.items():
                cpu, clock = await _turn(engine, tokenizer, constraint, tokens)
                if turn:  # the first one warms up
                    before = best.get(kind, (cpu, clock))
                    best[kind] = (min(cpu, before[0]), min(clock, before[1]))
    finally:
        await engine.stop(grace_s=0)
    return best


def main() -> int:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", help="a model directory or hub id")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--data-dir", type=Path, default=Settings().data_dir)
    options = parser.parse_args()
    path = resolve_model(options.model, options.data_dir, progress=print)
    best = asyncio.run(_measure(path, options.turns, options.tokens))
    free = best["all free"]
    print("| eight rows | CPU ms a step | against all free | ms a step | against all free |")
    print("| --- | --- | --- | --- | --- |")
    for kind, (cpu, clock) in best.items():
        print(
            f"| {kind} | {cpu * 1000:.1f} | {cpu / free[0] - 1:+.1%} "
            f"| {clock * 1000:.1f} | {clock / free[1] - 1:+.1%} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
