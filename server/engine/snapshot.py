"""What the engine shows of itself: a snapshot that any thread may read."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from adapters.lora import AdapterBank
from server.core.messages import EngineStats
from server.engine.admission import Admission
from server.engine.decode import DecodeBatch
from server.engine.lending import LentTime
from server.engine.prefill import Prefill
from server.engine.prefix import PrefixCache
from server.engine.speculation import Speculation

_SMOOTHING = 0.1


@dataclass(slots=True)
class Counters:
    """What has been done since the start. ``step_s`` and ``row_s`` are moving averages."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    step_s: float = 0.0
    row_s: float = 0.0
    last_end: float | None = None

    def stepped(self, seconds: float, *, tokens: int) -> None:
        """One decode step drew so many tokens."""
        self.steps += 1
        self.step_s += _SMOOTHING * (seconds - self.step_s)
        self.generated_tokens += tokens

    def ended(self, now: float) -> None:
        """A row ended; ``now`` is in seconds, of any clock."""
        if self.last_end is not None:
            apart = now - self.last_end
            self.row_s += (apart - self.row_s) * (_SMOOTHING if self.row_s else 1)
        self.last_end = now

    def idle(self) -> None:
        """Nothing runs: the time until the next end says nothing about speed."""
        self.last_end = None


@dataclass(frozen=True, slots=True)
class Look:
    """The parts of a worker that a snapshot is made from. ``rows`` counts all that are known."""

    rows: int
    waiting: Admission
    prefill: Prefill
    decode: DecodeBatch
    bank: AdapterBank
    prefix: PrefixCache
    speculation: Speculation
    lent: LentTime
    counters: Counters
    kv_budget_tokens: int
    prefill_tokens_per_s: float


def snapshot(look: Look) -> EngineStats:
    """The statistics of this moment; device thread only."""
    decoding, bank, lent, counters = look.decode.rows, look.bank, look.lent, look.counters
    return EngineStats(
        state="ready",
        waiting=len(look.waiting),
        prefilling=len(look.prefill.rows),
        decoding=len(decoding),
        steps=counters.steps,
        prompt_tokens=counters.prompt_tokens,
        generated_tokens=counters.generated_tokens,
        guessed_tokens=look.speculation.proposed_tokens,
        accepted_tokens=look.speculation.accepted_tokens,
        resident_adapters=len(bank),
        resident_bytes=bank.nbytes,
        mixture_bytes=bank.mixture_nbytes,
        adapter_budget_bytes=bank.budget_bytes,
        adapter_hits=look.waiting.hits,
        adapter_misses=look.waiting.misses,
        adapter_loads=bank.loads,
        adapter_evictions=bank.evictions,
        kv_bytes=look.decode.kv_bytes + look.prefill.kv_bytes,
        kv_tokens=len(decoding) * max((row.length for row in decoding), default=0),
        kv_budget_tokens=look.kv_budget_tokens,
        prefix_cache_bytes=look.prefix.nbytes,
        prefix_cache_budget_bytes=look.prefix.budget_bytes,
        prefix_cache_blocks=len(look.prefix),
        prefix_cache_hits=look.prefix.hits,
        prefix_cache_tokens=look.prefix.reused_tokens,
        prefix_cache_shared_tokens=look.prefix.shared_tokens,
        prefill_tokens_per_s=look.prefill_tokens_per_s,
        decode_step_s=counters.step_s,
        row_s=counters.row_s,
        lent_pieces=lent.pieces,
        lent_s=lent.total_s,
        longest_piece_s=lent.longest_s,
        memory_bytes=mx.get_active_memory(),
        peak_memory_bytes=mx.get_peak_memory(),
        integrity=_integrity(look),
    )


def _integrity(look: Look) -> str:
    """What must hold while nothing runs; "ok" or what does not."""
    if look.rows:
        return "ok"
    if look.bank.in_use:
        return f"{look.bank.in_use} adapters are held by no row"
    if look.decode.rows or look.prefill.rows or len(look.waiting):
        return "rows are left that nobody asked for"
    return "ok"
