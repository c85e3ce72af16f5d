"""The rows that wait, and which of them start when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adapters.lora import AdapterBank, Router
from server.core.fair_queue import Candidate, FairQueue, Room
from server.engine.device import AdapterSource, Limits, Shapes
from server.engine.loader import AdapterLoader, Loaded, LoadFailed, Tell
from server.engine.residency import Residency
from server.engine.rows import Row

_PIECE_BYTES = 16 << 20
"""Of adapters copied to the device between two steps: about 6 ms on one core."""


class Admission:
    """Waiting rows and the adapters that they wait for. Device thread only.

    ``tell`` gets what the loader's threads have to say; ``hits`` counts rows whose adapter was
    resident when they came, ``misses`` the others that need one.
    """

    def __init__(
        self, bank: AdapterBank, router: Router, source: AdapterSource, limits: Limits, tell: Tell
    ) -> None:
        def check(shapes: Shapes) -> None:
            router.check(shapes)
            bank.check(shapes)

        self._limits = limits
        self._bank = bank
        self._waiting = FairQueue(lambda revision: self._residency.standing(revision))
        loader = AdapterLoader(source, check, tell)
        self._residency = Residency(bank, loader, self._waiting.moved)
        self._rows: dict[str, Row] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def could_start(self) -> bool:
        """Whether a row waits for nothing but room, or an adapter can be copied."""
        return self._waiting.has_ready or self._residency.has_loaded

    def add(self, row: Row) -> None:
        """A new row waits."""
        revision = row.request.revision
        if revision is not None:
            self.hits += revision in self._bank
            self.misses += revision not in self._bank
        self._rows[row.request.request_id] = row
        self._waiting.push(self._candidate(row))

    def put_back(self, row: Row) -> None:
        """A row that was preempted waits again, before the others of its flow."""
        self._residency.release(row.request.revision)
        row.rewind()
        self._rows[row.request.request_id] = row
        self._waiting.push_front(self._candidate(row))

    def remove(self, row: Row) -> None:
        """A row ends, waiting or started: it waits no longer, or lets go of its adapter."""
        request = row.request
        if self._waiting.remove(request.request_id):
            del self._rows[request.request_id]
            if request.revision is not None and not self._waiting.waits_for(request.revision):
                self._residency.drop(request.revision)
        else:
            self._residency.release(request.revision)

    def start(self, running: Sequence[Row]) -> list[Row]:
        """Advance the adapters on their way, and take the rows that start beside ``running``.

        Its work does not depend on how many rows wait.
        """
        if not len(self._waiting) and not self._residency.is_copying:
            return []
        self._copy_adapters()
        started = [
            self._rows.pop(each.request_id)
            for each in self._waiting.take(
                self._room(running), self._residency.crowded, batch=self._limits.max_rows
            )
        ]
        for row in started:
            row.adapter = self._residency.acquire(row.request.revision)
        self._residency.want(self._waiting.next_cold)
        return started

    def loaded(self, loaded: Loaded) -> None:
        """An adapter is in host memory."""
        self._residency.arrived(loaded, wanted=self._waiting.waits_for(loaded.revision))

    def failed(self, failure: LoadFailed) -> Iterable[Row]:
        """An adapter cannot be loaded; the rows that waited for it, which have to end."""
        self._residency.failed(failure.revision)
        return [self._rows[each.request_id] for each in self._waiting.rows_of(failure.revision)]

    def forget(self, revision: str) -> None:
        """Nobody will ask for ``revision`` again."""
        self._residency.forget(revision)

    def close(self) -> None:
        """Read no further adapter."""
        self._residency.close()

    def _copy_adapters(self) -> None:
        left = _PIECE_BYTES
        while left > 0 and self._residency.has_loaded:
            if not self._residency.is_copying and not self._begin():
                return
            left -= self._residency.advance(left)

    def _begin(self) -> bool:
        crowded = self._residency.crowded
        first = self._waiting.in_order(crowded)[0]
        return self._residency.begin(
            first, self._waiting.kept(crowded, batch=self._limits.max_rows)
        )

    def _candidate(self, row: Row) -> Candidate:
        request = row.request
        return Candidate(
            request.request_id,
            request.flow,
            self._expected(row),
            request.revision,
            request.priority,
        )

    def _expected(self, row: Row) -> int:
        left = row.request.max_tokens - len(row.generated)
        return self._limits.expected(row.length, left)

    def _room(self, running: Sequence[Row]) -> Room:
        longest = max(map(self._expected, running), default=0)
        limits = self._limits
        return Room(limits.max_rows - len(running), limits.kv_budget_tokens, len(running), longest)
