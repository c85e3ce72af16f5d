"""Which waiting rows start next: fair between chains, urgent rows first, and nothing starves.

Pure rules: readiness comes in as a question, and nothing here looks at a clock.
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

FAIR_EVERY = 8
"""While less urgent rows could start, one start in so many asks for no priority."""


class Standing(enum.Enum):
    """Whether rows of a revision could start."""

    READY = enum.auto()
    """Its adapter is resident, or it is the bare base."""
    COMING = enum.auto()
    """Its adapter is being read, or waits in host memory for room on the device."""
    COLD = enum.auto()
    """Nobody has sent for its adapter yet."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that waits. ``flow`` is the fairness key, a lower ``priority`` is earlier.

    ``expected`` is the number of tokens that the row is reserved to hold.
    """

    request_id: str
    flow: str
    expected: int
    revision: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What is free: rows, and the longest row count times length that the KV budget holds.

    ``rows_running`` rows are running, the longest reserved to ``longest`` tokens. A batch of n
    rows costs n times its longest row, because rows are padded to it.
    """

    rows: int
    kv_tokens: int
    rows_running: int
    longest: int

    def takes(self, expected: int) -> bool:
        """Whether a row of ``expected`` tokens fits; an empty batch takes any row."""
        if self.rows < 1:
            return False
        if not self.rows_running:
            return True
        return (self.rows_running + 1) * max(self.longest, expected) <= self.kv_tokens

    def after(self, expected: int) -> Room:
        """What is free once that row runs."""
        return Room(
            self.rows - 1, self.kv_tokens, self.rows_running + 1, max(self.longest, expected)
        )


@dataclass(eq=False, slots=True)
class _Lane:
    """Rows of one flow, revision and priority in order: they are ready together or not at all."""

    flow: str
    revision: str | None
    priority: int
    rows: OrderedDict[str, tuple[int, Candidate]] = field(default_factory=OrderedDict)

    @property
    def first(self) -> Candidate:
        return next(iter(self.rows.values()))[1]

    @property
    def place(self) -> int:
        """Of its first row, in the order of arrival."""
        return next(iter(self.rows.values()))[0]


@dataclass(frozen=True, slots=True)
class _Limit:
    """How far other rows may get ahead of one that waits for room alone."""

    flow: str
    priority: int
    place: int
    tag: float
    lead: int

    def holds(self, lane: _Lane, tag: float) -> bool:
        if lane.flow == self.flow:
            return lane.place > self.place
        more = FAIR_EVERY if lane.priority < self.priority else 1
        return bool(lane.flow) and tag > self.tag + more * self.lead


class FairQueue:
    """Waiting rows, first come first served within a flow, fair between flows, urgent ones first.

    Start-time fair queueing (Goyal, Vin & Cheng 1996): each flow has a virtual start time that
    rises by the tokens it was granted; of the flows that have a ready row of the most urgent
    priority, the one with the lowest is next. A flow that idled, whose adapter was missing, or
    whose rows were less urgent than others continues at the present virtual time: waiting earns
    one row and no more, and a flood on one flow delays another by one row, or by one batch of rows
    where the other first needs the memory that the flood's adapter takes (``crowded``).

    While less urgent rows are ready, every ``FAIR_EVERY``-th start is the fairest row whatever its
    priority, so that none starves.

    The work of a call depends on the number of resident adapters, of flows in ``next_cold``, and
    never on the number of rows that wait.
    """

    def __init__(self, standing: Callable[[str | None], Standing]) -> None:
        self._standing = standing
        self._lanes: dict[tuple[str, str | None, int], _Lane] = {}
        self._lane_of: dict[str, _Lane] = {}
        self._of_revision: dict[str | None, dict[_Lane, None]] = {}
        self._at: dict[Standing, dict[_Lane, None]] = {each: {} for each in Standing}
        self._tags: dict[str, float] = {}
        self._waiting_of: dict[str, int] = {}
        self._now = self._highest = 0.0
        self._passed_over = 0
        self._back, self._front = itertools.count(), itertools.count(-1, -1)

    def __len__(self) -> int:
        return len(self._lane_of)

    @property
    def has_ready(self) -> bool:
        """Whether a row waits for nothing but room."""
        return bool(self._at[Standing.READY])

    def push(self, row: Candidate) -> None:
        """Add a row at the end of its flow."""
        lane = self._lane(row)
        lane.rows[row.request_id] = (next(self._back), row)

    def push_front(self, row: Candidate) -> None:
        """Put a row that was preempted back at the head of its flow."""
        lane = self._lane(row)
        lane.rows[row.request_id] = (next(self._front), row)
        lane.rows.move_to_end(row.request_id, last=False)

    def remove(self, request_id: str) -> bool:
        """Forget a row; False where it does not wait."""
        lane = self._lane_of.pop(request_id, None)
        if lane is None:
            return False
        del lane.rows[request_id]
        self._waiting_of[lane.flow] -= 1
        if not lane.rows:
            self._drop(lane)
        if not self._waiting_of[lane.flow]:
            del self._waiting_of[lane.flow]
        if not self._lane_of:
            # The end of a busy period (section 2.1 of the paper): all flows are equal again.
            self._now = self._highest
            self._tags.clear()
        return True

    def moved(self, revision: str | None) -> None:
        """The standing of a revision has changed."""
        standing = self._standing(revision)
        for lane in self._of_revision.get(revision, ()):
            for lanes in self._at.values():
                lanes.pop(lane, None)
            self._at[standing][lane] = None

    def waits_for(self, revision: str | None) -> bool:
        """Whether a row of ``revision`` waits."""
        return revision in self._of_revision

    def rows_of(self, revision: str | None) -> Sequence[Candidate]:
        """The waiting rows of ``revision``."""
        return [
            row for lane in self._of_revision.get(revision, ()) for _, row in lane.rows.values()
        ]

    def in_order(self, revisions: Iterable[str]) -> Sequence[str]:
        """Those of ``revisions`` that rows wait for, by whose row is next."""
        waited = [each for each in revisions if each in self._of_revision]
        return sorted(waited, key=lambda each: min(map(self._key, self._of_revision[each])))

    def next_cold(self) -> str | None:
        """The cold revision whose row is next."""
        lane = min(self._at[Standing.COLD], key=self._key, default=None)
        return None if lane is None else lane.revision

    def kept(self, crowded: Collection[str], *, batch: int) -> frozenset[str]:
        """The resident revisions whose waiting rows may start before the ``crowded`` ones."""
        limits = self._limits(crowded, batch)
        return frozenset(
            lane.revision for lane in self._startable(limits) if lane.revision is not None
        )

    def take(self, room: Room, crowded: Collection[str] = (), *, batch: int = 1) -> list[Candidate]:
        """Remove and return the rows that start now, in order.

        Rows that are not ready are passed over and keep their place. The first ready row that
        does not fit ends the round, so that smaller rows cannot starve it.

        ``crowded`` revisions wait for nothing but room on the device. So that adapters in use run
        dry and make it, another flow gets at most ``batch`` rows of its size ahead of such a row
        (``FAIR_EVERY`` times that with more urgent rows), and its own flow waits behind it. The
        base's flow, "", takes no room and goes on.
        """
        taken: list[Candidate] = []
        while room.rows > 0:
            choice = self._next(self._limits(crowded, batch))
            if choice is None or not room.takes(choice.first.expected):
                break
            taken.append(self._grant(choice))
            room = room.after(taken[-1].expected)
        return taken

    def _next(self, limits: Sequence[_Limit]) -> _Lane | None:
        lanes = list(self._startable(limits))
        if self._passed_over >= FAIR_EVERY - 1:
            return min(lanes, key=self._fair_key, default=None)
        return min(lanes, key=self._key, default=None)

    def _startable(self, limits: Sequence[_Limit]) -> Iterator[_Lane]:
        for lane in self._at[Standing.READY]:
            tag = self._tags[lane.flow]
            if not any(limit.holds(lane, tag) for limit in limits):
                yield lane

    def _limits(self, crowded: Collection[str], batch: int) -> Sequence[_Limit]:
        found = []
        for revision in crowded:
            for lane in self._of_revision.get(revision, ()):
                lead = batch * lane.first.expected
                tag = self._tags[lane.flow]
                found.append(_Limit(lane.flow, lane.priority, lane.place, tag, lead))
        return found

    def _grant(self, lane: _Lane) -> Candidate:
        row, ready = lane.first, self._at[Standing.READY]
        least = max(each.priority for each in ready)
        fairly = self._passed_over >= FAIR_EVERY - 1
        self._passed_over = 0 if fairly or lane.priority == least else self._passed_over + 1
        self._now = max(self._now, self._tags[lane.flow])
        self._tags[lane.flow] = self._now + row.expected
        self._highest = max(self._highest, self._tags[lane.flow])
        self.remove(row.request_id)
        return row

    def _key(self, lane: _Lane) -> tuple[int, float, int]:
        return (lane.priority, self._tags[lane.flow], lane.place)

    def _fair_key(self, lane: _Lane) -> tuple[float, int]:
        return (self._tags[lane.flow], lane.place)

    def _lane(self, row: Candidate) -> _Lane:
        """The lane that ``row`` is about to join."""
        key = (row.flow, row.revision, row.priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(*key)
            self._of_revision.setdefault(row.revision, {})[lane] = None
            self._at[self._standing(row.revision)][lane] = None
        if row.flow not in self._waiting_of:
            self._waiting_of[row.flow] = 0
            self._tags[row.flow] = max(self._tags.get(row.flow, 0.0), self._now)
        self._waiting_of[row.flow] += 1
        self._lane_of[row.request_id] = lane
        return lane

    def _drop(self, lane: _Lane) -> None:
        del self._lanes[lane.flow, lane.revision, lane.priority]
        del self._of_revision[lane.revision][lane]
        if not self._of_revision[lane.revision]:
            del self._of_revision[lane.revision]
        for lanes in self._at.values():
            lanes.pop(lane, None)
