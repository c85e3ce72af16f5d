"""The device thread's work: everything that touches MLX, one step at a time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

import mlx.core as mx

from adapters.base.output_layer import HeadNotFound
from adapters.lora import AdapterBank, Router
from server.core.errors import AdapterUnavailable, NoHiddenState
from server.core.messages import EngineStats, Event, Failed, Finished, FinishReason, Token
from server.core.schedule import PrefillPace
from server.core.speculation import StepTimes
from server.engine.admission import Admission
from server.engine.cut import Cuts
from server.engine.decode import DecodeBatch
from server.engine.device import AdapterSource, Limits, LoadedModel
from server.engine.inbox import Begin, Cancel, Forget, Message, Stop
from server.engine.lending import LentTime, Piece
from server.engine.loader import Loaded, LoadFailed
from server.engine.prefill import Prefill, measure_prefill
from server.engine.prefix import PrefixCache
from server.engine.rows import Forward, Row
from server.engine.snapshot import Counters, Look, snapshot
from server.engine.speculation import Speculation

Publish = Callable[[Sequence[tuple[str, Event]]], None]


class Worker:
    """Owns the model, the bank and all rows, and advances them step by step.

    Made and used on the device thread alone. Messages come in through ``inbox``; after each step
    ``publish`` gets the step's events in order.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        limits: Limits,
        source: AdapterSource,
        inbox: queue.SimpleQueue[Message],
        publish: Publish,
    ) -> None:
        self._limits = limits
        self._model = loaded.model
        self._inbox = inbox
        self._publish = publish
        router = Router(loaded.model)
        dtype: mx.Dtype = getattr(mx, loaded.dtype)
        self._forward = Forward(loaded.model, router, loaded.vocabulary, loaded.kv)
        self._bank = AdapterBank(router, budget_bytes=limits.adapter_budget_bytes, dtype=dtype)
        self._rows: dict[str, Row] = {}
        self._waiting = Admission(self._bank, router, source, limits, inbox.put)
        self._prefix = PrefixCache(
            self._forward.make_caches(), budget_bytes=limits.prefix_cache_bytes
        )
        cuts = Cuts.of(self._forward) if self._prefix.budget_bytes else None
        self._prefill = Prefill(self._forward, self._prefix, cuts, most_rows=limits.prefill_rows)
        self._events: list[tuple[str, Event]] = []
        self._counters = Counters()
        self._lent = LentTime(limits.train_share)
        fixed_s, tokens_per_s = measure_prefill(self._forward)
        self._pace = PrefillPace(
            block_s=limits.prefill_block_s,
            fixed_s=fixed_s,
            tokens_per_s=tokens_per_s,
            most_tokens=limits.most_prefill_tokens,
        )
        self._speculation = Speculation(
            StepTimes(fixed_s=fixed_s, tokens_per_s=tokens_per_s),
            most=limits.most_guessed_tokens,
            kv_tokens=limits.kv_budget_tokens,
        )
        self._decode = DecodeBatch(self._forward, self._speculation)
        self.stats = self._snapshot()

    def run(self) -> None:
        """Work until Stop. Any exception that leaves this method means a poisoned engine."""
        try:
            while self._receive():
                began = time.perf_counter()
                self._start_rows()
                self._advance_prompts()
                self._advance_tokens()
                self._lent.served(time.perf_counter() - began)
                self._deliver()
                if self._lent.advance(self._model, serving=self._is_serving()):
                    self.stats = self._snapshot()
        finally:
            self._waiting.close()
            self._lent.refuse()
            self.stats = self._snapshot()

    def _receive(self) -> bool:
        """Take every message; wait for one where there is nothing else to do."""
        while True:
            if is_idle := self._is_idle():
                self._counters.idle()
            try:
                message = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            if isinstance(message, Stop):
                return False
            self._take(message)
            if self._inbox.empty():
                return True

    def _is_idle(self) -> bool:
        """Whether only a message can bring work: nothing runs, and nothing that waits can start."""
        return not self._lent and not self._is_serving()

    def _is_serving(self) -> bool:
        """Whether a row runs or could start."""
        return bool(self._prefill.rows or self._decode.rows or self._waiting.could_start)

    def _take(self, message: Message) -> None:
        match message:
            case Piece():
                self._lent.add(message)
            case Begin():
                row = Row(message.request, message.request.prompt, matcher=message.matcher)
                self._add(row)
            case Cancel():
                if message.request_id in self._rows:
                    self._finish(self._rows[message.request_id], FinishReason.CANCELLED)
            case Forget():
                self._waiting.forget(message.revision)
                self._prefix.forget(message.revision)
                for row in self._rows.values():
                    row.is_kept &= row.request.revision != message.revision
            case Loaded():
                self._waiting.loaded(message)
            case LoadFailed():
                for row in self._waiting.failed(message):
                    self._end(row, Failed(AdapterUnavailable(message.reason, param="model")))

    def _add(self, row: Row) -> None:
        """A row waits, or ends where it wants hidden states that cannot be had.

        The first that wants some takes a forward to find them.
        """
        self._rows[row.request.request_id] = row
        self._waiting.add(row)
        if not row.request.pooled:
            return
        row.is_kept = False  # few prompts begin with the texts that are embedded
        try:
            self._forward.check_hidden()
        except HeadNotFound:
            message = "This model's architecture gives no hidden states, so it embeds nothing."
            self._end(row, Failed(NoHiddenState(message, param="model")))

    def _start_rows(self) -> None:
        """Admit the rows that are ready and fit."""
        for row in self._waiting.start([*self._prefill.rows, *self._decode.rows]):
            self._prefill.add(row)

    def _advance_prompts(self) -> None:
        """Compute one piece of prefill and move finished prompts into the decode batch."""
        if not self._prefill.rows:
            return
        began = time.perf_counter()
        waiting, decoding = len(self._prefill.rows), len(self._decode.rows)
        budget = self._pace.budget(waiting=waiting, decoding=decoding)
        done = self._prefill.run(budget, overhead=self._pace.overhead)
        if done.plain:
            self._pace.observe(tokens=done.tokens, seconds=time.perf_counter() - began)
        for row, event in done.reports:
            if isinstance(event, Failed):
                self._end(row, event)
            else:
                self._events.append((row.request.request_id, event))
        through = self._prefill.take_done()
        # The decode step computes the last token of each that goes on.
        self._counters.prompt_tokens += done.tokens + sum(not row.request.pooled for row in through)
        self._decode.join([row for row in through if row.request.max_tokens])
        for row in through:
            if not row.request.max_tokens:
                self._finish(row, FinishReason.LENGTH)

    def _advance_tokens(self) -> None:
        """Run one decode step and end the rows that are through."""
        self._preempt()
        if not self._decode.rows:
            return
        began = time.perf_counter()
        drawn = self._decode.step()
        self._counters.stepped(time.perf_counter() - began, tokens=len(drawn))
        for each in drawn:
            row, request = each.row, each.row.request
            if request.request_id not in self._rows:
                continue  # ended by an earlier entry of this step
            if each.token is None:
                self._end(row, Failed(each.failure or row.not_finite()))
                continue
            if row.ends_at(each.token.token):
                self._finish(row, FinishReason.STOP, each.token)
                continue
            row.generated.append(each.token.token)
            self._events.append((request.request_id, each.token))
            cut = len(row.generated) >= request.max_tokens or self._is_at_limit(row)
            if cut or each.is_whole:
                self._finish(row, FinishReason.STOP if each.is_whole else FinishReason.LENGTH)

    def _deliver(self) -> None:
        events, self._events = self._events, []
        self.stats = self._snapshot()
        if events:
            self._publish(events)

    def _preempt(self) -> None:
        """While the batch outgrows the KV budget, put its least urgent row back, the youngest."""
        while len(self._decode.rows) > 1:
            rows = self._decode.rows
            longest = max(row.length for row in rows) + 1
            if len(rows) * longest <= self._limits.kv_budget_tokens:
                return
            last = max(reversed(rows), key=lambda row: row.request.priority)
            self._keep(last)
            self._decode.leave(last)
            self._waiting.put_back(last)

    def _is_at_limit(self, row: Row) -> bool:
        return row.length >= self._limits.kv_budget_tokens

    def _finish(self, row: Row, reason: FinishReason, end: Token | None = None) -> None:
        if row in self._decode.rows:
            self._keep(row)
        prompt, generated = len(row.request.prompt), len(row.generated)
        self._end(row, Finished(reason, prompt, generated, row.reused or 0, end))

    def _keep(self, row: Row) -> None:
        """Leave a decoding row's KV to those that go on from its prompt and answer."""
        if row.is_kept and self._prefix.budget_bytes:
            tokens = (*row.request.prompt, *row.generated)
            held = self._decode.held(row)
            self._prefix.keep(held, row.request.revision, tokens, cut=row.cut)

    def _end(self, row: Row, event: Finished | Failed) -> None:
        """The only way out: wherever the row is, it leaves, and its last event is ``event``."""
        request = row.request
        del self._rows[request.request_id]
        if row in self._prefill.rows:
            self._prefill.remove(row)
        else:
            self._decode.leave(row)
        self._waiting.remove(row)
        self._counters.ended(time.perf_counter())
        self._events.append((request.request_id, event))

    def _snapshot(self) -> EngineStats:
        return snapshot(
            Look(
                rows=len(self._rows),
                waiting=self._waiting,
                prefill=self._prefill,
                decode=self._decode,
                bank=self._bank,
                prefix=self._prefix,
                speculation=self._speculation,
                lent=self._lent,
                counters=self._counters,
                kv_budget_tokens=self._limits.kv_budget_tokens,
                prefill_tokens_per_s=self._pace.tokens_per_s,
            )
        )
