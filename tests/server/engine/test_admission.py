"""Rows that wait and the adapters that are fetched for them, without a forward."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear

from adapters.errors import AdapterFileError
from adapters.formats.arrays import from_mlx
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora import AdapterBank, Router
from adapters.shape import LoraShape
from server.core.messages import Generate, Sampling
from server.engine import admission
from server.engine.admission import Admission
from server.engine.loader import Loaded, LoadFailed
from server.engine.rows import Row
from tests.counting import calls
from tests.server.engine.rig import LIMITS

WIDTH, LAYERS, RANK = 8, 4, 2
ADAPTER_BYTES = LAYERS * 2 * WIDTH * RANK * 4


@dataclass
class Source:
    """Adapters of one size under every name but those of ``broken``; it notes who was read."""

    broken: set[str] = field(default_factory=set)
    fault: Exception = field(default_factory=lambda: AdapterFileError("broken"))
    read_so_far: list[str] = field(default_factory=list)

    def read(self, revision: str) -> AdapterFiles:
        """A rank-2 adapter on every layer."""
        self.read_so_far.append(revision)
        if revision in self.broken:
            raise self.fault
        half = from_mlx(mx.ones((WIDTH, RANK)))
        other = from_mlx(mx.ones((RANK, WIDTH)))
        tensors = {f"layer{number}": (half, other) for number in range(LAYERS)}
        return AdapterFiles(LoraShape(RANK, 1.0, -1), tensors)

    def registered(self) -> int:
        """Nothing that happens between two steps asks for it: it may be any number."""
        raise AssertionError("a step must not depend on it")


class Rig:
    """Room for ``fits`` adapters and one row; what the loader says is heard when asked for."""

    def __init__(self, *, fits: int = 2, rows: int = 1) -> None:
        empty: Any = Module
        model = empty()
        for number in range(LAYERS):
            setattr(model, f"layer{number}", Linear(WIDTH, WIDTH, bias=False))
        router = Router(model)
        self.bank = AdapterBank(router, budget_bytes=fits * ADAPTER_BYTES, dtype=mx.float32)
        self.source = Source()
        self.said: queue.SimpleQueue[Loaded | LoadFailed] = queue.SimpleQueue()
        limits = replace(LIMITS, max_rows=rows)
        self.waiting = Admission(self.bank, router, self.source, limits, self.said.put)
        self.running: list[Row] = []
        self.count = 0

    def add(self, revision: str | None, **fields: Any) -> Row:
        """A row waits."""
        self.count += 1
        request = Generate(
            request_id=str(self.count),
            prompt=(1, 2),
            max_tokens=4,
            sampling=Sampling(seed=0),
            end_tokens=frozenset(),
            revision=revision,
            flow=revision or "",
            **fields,
        )
        row = Row(request, request.prompt)
        self.waiting.add(row)
        return row

    def step(self) -> list[str | None]:
        """What starts between two steps: the revisions."""
        started = self.waiting.start(self.running)
        self.running += started
        return [row.request.revision for row in started]

    def end(self) -> None:
        """The oldest running row ends."""
        self.waiting.remove(self.running.pop(0))

    def hear(self, count: int = 1) -> None:
        """Wait for what the loader says."""
        for _ in range(count):
            outcome = self.said.get(timeout=20)
            if isinstance(outcome, Loaded):
                self.waiting.loaded(outcome)
            else:
                for row in self.waiting.failed(outcome):
                    self.waiting.remove(row)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Room for two adapters and one row."""
    with made() as each:
        yield each


@contextmanager
def made(**sizes: int) -> Iterator[Rig]:
    """A rig whose loader ends with the test."""
    each = Rig(**sizes)
    try:
        yield each
    finally:
        each.waiting.close()


def test_an_adapter_is_fetched_once_for_all_the_rows_that_wait(rig: Rig) -> None:
    """Ten rows that come at once load once, and each of them is a miss."""
    for _ in range(10):
        rig.add("a")
    assert rig.step() == []
    rig.hear()
    assert rig.step() == ["a"]
    rig.end()
    assert rig.step() == ["a"]
    rig.add("a")
    assert rig.source.read_so_far == ["a"]
    assert (rig.waiting.hits, rig.waiting.misses) == (1, 10)


def test_a_cold_adapter_never_delays_a_row_that_is_ready(rig: Rig) -> None:
    """FACTS 4, case 8: the base runs while the adapter is read."""
    rig.add("cold")
    rig.add(None)
    assert rig.step() == [None]


def test_many_cold_chains_do_not_fill_host_memory(rig: Rig) -> None:
    """A few are fetched ahead, in the order in which their rows are due."""
    for number in range(1000):
        rig.add(f"chain{number}")
    urgent = rig.add("urgent", priority=-1)
    for _ in range(3):
        assert rig.step() == []
    rig.hear(4)
    assert set(rig.source.read_so_far) == {"urgent", "chain0", "chain1", "chain2"}
    assert rig.step() == ["urgent"]
    assert rig.running == [urgent]


def test_all_of_many_cold_chains_have_their_turn(rig: Rig) -> None:
    """Twenty chains through a bank for two, whose budget holds at every step."""
    for number in range(20):
        rig.add(f"chain{number}")
    started: list[str | None] = []
    heard = 0
    while len(started) < 20:
        started += rig.step()
        assert rig.bank.nbytes <= rig.bank.budget_bytes
        if rig.running:
            rig.end()
        while heard < len(rig.source.read_so_far):
            heard += 1
            rig.hear()
    assert started == [f"chain{number}" for number in range(20)]
    assert rig.bank.evictions == 18


def test_a_large_adapter_is_copied_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are ready go on between two of them, and its room is reserved from the first."""
    monkeypatch.setattr(admission, "_PIECE_BYTES", ADAPTER_BYTES // LAYERS)
    rig.add("large")
    rig.step()
    rig.hear()
    for _ in range(LAYERS - 1):
        rig.add(None)
        assert rig.step() == [None]
        rig.end()
        assert rig.bank.nbytes == ADAPTER_BYTES
        assert len(rig.bank) == 0
    assert rig.step() == ["large"]
    assert rig.bank.nbytes == ADAPTER_BYTES


def test_an_adapter_that_is_forgotten_while_it_is_copied_leaves_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FACTS 4, case 6: memory returns to where it was."""
    monkeypatch.setattr(admission, "_PIECE_BYTES", 1)
    row = rig.add("large")
    rig.step()
    rig.hear()
    rig.step()
    rig.waiting.remove(row)
    rig.waiting.forget("large")
    assert rig.bank.nbytes == 0
    assert not rig.waiting.could_start


def test_an_adapter_that_nobody_waits_for_any_more_is_let_go(rig: Rig) -> None:
    """Its row was cancelled while it was read, or while it waited for room."""
    row = rig.add("gone")
    rig.step()
    rig.waiting.remove(row)
    rig.hear()
    assert not rig.waiting.could_start
    rig.add("gone")
    rig.step()
    rig.hear()
    assert rig.step() == ["gone"]
    assert rig.source.read_so_far == ["gone", "gone"]


def test_the_least_recently_used_adapter_goes_first(rig: Rig) -> None:
    """Of those that no row uses or waits for."""
    for revision in ("a", "b", "a", "c"):
        rig.add(revision)
        if not rig.step():
            rig.hear()
            assert rig.step() == [revision]
        rig.end()
    assert ("a" in rig.bank, "b" in rig.bank, "c" in rig.bank) == (True, False, True)


def test_an_adapter_in_use_is_never_evicted(rig: Rig) -> None:
    """It is drained: the row that finds no room waits for its end."""
    with made(fits=1, rows=2) as small:
        small.add("a")
        small.step()
        small.hear()
        assert small.step() == ["a"]
        small.add("b")
        small.step()
        small.hear()
        assert small.step() == []
        small.end()
        assert small.step() == ["b"]
    assert rig.bank.nbytes == 0


def test_one_that_is_broken_or_too_large_ends_its_rows_and_no_others(rig: Rig) -> None:
    """FACTS 4, case 7; the next row that wants it tries again."""
    rig.source.broken.add("bad")
    rig.add("bad")
    rig.add("good")
    rig.step()
    rig.hear(2)
    assert rig.step() == ["good"]
    assert len(rig.waiting) == 0
    rig.source.broken.clear()
    rig.end()
    rig.add("bad")
    rig.step()
    rig.hear()
    assert rig.step() == ["bad"]
    with made(fits=0) as none:
        none.add("any")
        none.step()
        none.hear()
        assert len(none.waiting) == 0


def test_a_fault_that_nobody_thought_of_ends_the_rows_that_wait_for_it(rig: Rig) -> None:
    """Else they would wait for ever, and hold a place among the adapters that are being read."""
    rig.source.fault = KeyError("a hole in the reader")
    rig.source.broken.add("bad")
    rig.add("bad")
    rig.step()
    rig.hear()
    assert len(rig.waiting) == 0


@pytest.mark.parametrize("chains", [1, 4])
def test_a_step_does_not_depend_on_how_many_rows_wait(chains: int) -> None:
    """Neither where the batch is full, nor where a row starts."""
    counts = []
    for waiting in (20, 1000):
        with made(fits=chains, rows=1) as rig:
            for number in range(waiting):
                rig.add(f"chain{number % chains}")
            rig.step()
            rig.hear(chains)
            assert len(rig.step()) == 1
            full = calls(lambda rig=rig: rig.step())  # type: ignore[misc]
            rig.end()
            counts.append((full, calls(lambda rig=rig: rig.step())))  # type: ignore[misc]
    assert counts[0] == counts[1]
