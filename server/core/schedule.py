"""Which waiting rows start next, and how many prompt tokens one piece of prefill may take.

Pure rules: time and readiness come in as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that waits. ``flow`` is the fairness key; lengths are tokens.

    ``prompt`` is what prefill must compute, ``expected`` what the row is reserved to hold.
    """

    request_id: str
    flow: str
    prompt: int
    expected: int


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


class FairQueue:
    """Waiting rows, first come first served within a flow, fair between flows.

    Start-time fair queueing (Goyal, Vin & Cheng 1996): each flow has a virtual start time that
    rises by the tokens it was granted; the ready flow with the lowest one is next. A flow that
    comes back after idling starts at the present virtual time, so idling earns no credit and a
    flood on one flow delays another by one row at most, or by one batch of rows where the other
    first needs the memory that the flood's adapter takes (``held_back``).
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Candidate]] = {}
        self._start: dict[str, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._waiting.values())

    def push(self, row: Candidate) -> None:
        """Add a row at the end of its flow."""
        self._flow(row.flow).append(row)

    def push_front(self, row: Candidate) -> None:
        """Put a row that was preempted back at the head of its flow."""
        self._flow(row.flow).insert(0, row)

    def remove(self, request_id: str) -> bool:
        """Forget a row; False where it does not wait."""
        for flow, rows in self._waiting.items():
            for row in rows:
                if row.request_id == request_id:
                    rows.remove(row)
                    if not rows:
                        del self._waiting[flow]
                    return True
        return False

    def rows(self) -> Sequence[Candidate]:
        """Every waiting row, by flow."""
        return [row for rows in self._waiting.values() for row in rows]

    def take(self, room: Room, ready: Callable[[Candidate], bool]) -> list[Candidate]:
        """Remove and return the rows that start now, in order.

        Rows that are not ready are passed over and keep their place. The first ready row that
        does not fit ends the round, so that smaller rows cannot starve it.
        """
        taken: list[Candidate] = []
        while True:
            choice = self._next(ready)
            if choice is None or not room.takes(choice.expected):
                return taken
            self._grant(choice)
            room = room.after(choice.expected)
            taken.append(choice)

    def held_back(self, crowded_out: Callable[[Candidate], bool], *, batch: int) -> frozenset[str]:
        """Ids of the rows that must not start, so that adapters in use run dry and make room.

        ``crowded_out`` rows wait for nothing but that room. Ahead of one, another flow gets at
        most ``batch`` rows of its size more than it; its own flow waits behind it. The base's
        flow, "", takes no room and goes on.
        """
        held: set[str] = set()
        limits: list[float] = []
        for flow, rows in self._waiting.items():
            first = next((place for place, row in enumerate(rows) if crowded_out(row)), None)
            if first is not None:
                limits.append(self._start[flow] + batch * rows[first].expected)
                held.update(row.request_id for row in rows[first + 1 :])
        limit = min(limits, default=math.inf)
        for flow, rows in self._waiting.items():
            if flow and self._start[flow] > limit:
                held.update(row.request_id for row in rows)
        return frozenset(held)

    def _next(self, ready: Callable[[Candidate], bool]) -> Candidate | None:
        for flow in sorted(self._waiting, key=lambda name: self._start[name]):
            for row in self._waiting[flow]:
                if ready(row):
                    return row
        return None

    def _grant(self, row: Candidate) -> None:
        self._now = self._start[row.flow]
        self._start[row.flow] += row.expected
        self.remove(row.request_id)
        if not self._waiting:
            self._start = {flow: at for flow, at in self._start.items() if at > self._now}

    def _flow(self, flow: str) -> list[Candidate]:
        if flow not in self._waiting:
            self._waiting[flow] = []
            self._start[flow] = max(self._start.get(flow, 0.0), self._now)
        return self._waiting[flow]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of prefill: which rows, and the most tokens of each."""

    rows: tuple[int, ...]
    tokens_per_row: int


def plan_prefill(remaining: Sequence[int], *, budget: int, most_rows: int) -> Piece:
    """The next piece over rows with ``remaining`` (at least 1) prompt tokens, the first one due.

    The due row sets the share, at most ``budget`` tokens; others join while the piece stays within
    the budget and they fill at least half of their share, so padding never exceeds half of it.
    """
    share = min(remaining[0], budget)
    rows = [0]
    for index in range(1, len(remaining)):
        if len(rows) == most_rows or (len(rows) + 1) * share > budget:
            break
        if 2 * remaining[index] >= share:
            rows.append(index)
    return Piece(tuple(rows), share)


class PrefillPace:
    """Tokens per piece so that no piece is expected to exceed ``block_s`` seconds.

    A piece of n tokens takes ``fixed_s + n / tokens_per_s``: reading the weights, and working on
    them. Their relation is the device's own; how long both take is learned from each piece.
    """

    def __init__(
        self, *, block_s: float, fixed_s: float, tokens_per_s: float, most_tokens: int
    ) -> None:
        self._block_s = block_s
        self._most = most_tokens
        self.fixed_s = fixed_s
        self.tokens_per_s = tokens_per_s

    def budget(self, *, waiting: int, decoding: int) -> int:
        """Tokens for the next piece, while ``waiting`` rows prefill and ``decoding`` decode.

        Four blocks long while nobody waits for a token, or at least half as many rows wait for
        their first as for their next: a burst would otherwise be served by many decode steps of
        few rows. Never so short that the fixed time is more than a third of it.
        """
        blocks = 1 if decoding > 2 * waiting else 4
        seconds = max(self._block_s * blocks - self.fixed_s, 2 * self.fixed_s)
        return max(16, min(self._most, int(self.tokens_per_s * seconds)))

    def observe(self, *, tokens: int, seconds: float) -> None:
        """Learn from a finished piece, as an exponential average with weight 0.3 on the newest.

        Other programs may hold up one piece as long as they like: none counts more than double.
        """
        if not tokens:
            return
        expected = self.fixed_s + tokens / self.tokens_per_s
        change = 0.7 + 0.3 * min(max(seconds / expected, 0.5), 2.0)
        self.fixed_s *= change
        self.tokens_per_s /= change
