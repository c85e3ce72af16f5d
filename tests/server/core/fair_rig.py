"""A fair queue, and hands on what is resident."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.core.fair_queue import Candidate, FairQueue, Room, Standing

WIDE = Room(rows=1000, kv_tokens=10**9, rows_running=0, longest=0)
ONE = Room(rows=1, kv_tokens=10**9, rows_running=0, longest=0)


@dataclass
class Rig:
    """A queue, and the adapters that are not resident; a flow's revision has the flow's name."""

    coming: set[str] = field(default_factory=set)
    cold: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.queue = FairQueue(self._standing)

    def push(self, *names: str, flow: str = "", expected: int = 10, priority: int = 0) -> None:
        """Rows of one flow."""
        for name in names:
            self.queue.push(Candidate(name, flow, expected, flow or None, priority))

    def flood(self, flow: str, count: int, *, expected: int = 10, priority: int = 0) -> None:
        """Rows ``flow0``, ``flow1`` …"""
        names = [f"{flow}{number}" for number in range(count)]
        self.push(*names, flow=flow, expected=expected, priority=priority)

    def move(self, revision: str, standing: Standing) -> None:
        """Its adapter is there now, or no longer."""
        self.coming.discard(revision)
        self.cold.discard(revision)
        if standing is not Standing.READY:
            (self.coming if standing is Standing.COMING else self.cold).add(revision)
        self.queue.moved(revision)

    def take(
        self, room: Room = WIDE, *, crowded: tuple[str, ...] = (), batch: int = 1
    ) -> list[str]:
        """Ids of the rows that start now."""
        return [each.request_id for each in self.queue.take(room, crowded, batch=batch)]

    def flows(self, count: int) -> list[str]:
        """The flows of the next rows, which start one by one."""
        return [each.flow for _ in range(count) for each in self.queue.take(ONE)]

    def _standing(self, revision: str | None) -> Standing:
        if revision in self.coming:
            return Standing.COMING
        return Standing.COLD if revision in self.cold else Standing.READY
