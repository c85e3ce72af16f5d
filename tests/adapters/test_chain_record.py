"""A lineage as one value: what is in it, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from adapters.chain_record import ChainRecord
from adapters.lineage import Fault, Origin, Stage, StageRequest, TrainSettings
from adapters.shape import LoraShape
from adapters.states import StageState

BASE, OTHER = "b" * 64, "c" * 64
SHAPE = LoraShape(4, 2.0, -1)
Change = Callable[[ChainRecord], ChainRecord]


def revision(number: int) -> str:
    """The id of a stage's revision."""
    return f"{number:064x}"


def stage(number: int, **changes: Any) -> Stage:
    """A stage that succeeded."""
    request = StageRequest("support", "d" * 64, TrainSettings(iters=1), validation="e" * 64)
    made = Stage(
        f"stage-{number}", "support", number, BASE, Origin.TRAINED, StageState.SUCCEEDED, 1.0,
        request=request, revision=revision(number), shape=SHAPE,
    )  # fmt: skip
    return replace(made, **changes)


def gone(number: int, state: StageState, **changes: Any) -> Stage:
    """A stage that left nothing."""
    return stage(number, state=state, revision=None, shape=None, **changes)


RECORD = ChainRecord(
    name="support",
    base=BASE,
    created_at=1.0,
    head=5,
    first_number=2,
    last_number=7,
    labels={"old": 2},
    stages=(
        stage(1, base=OTHER, revision_deleted_at=2.0),
        stage(2, origin=Origin.IMPORTED, request=None),
        gone(3, StageState.FAILED, error=Fault("x", "y")),
        gone(4, StageState.CANCELLED),
        stage(5, parent=revision(2)),
        stage(6, revision=revision(2)),
    ),
)


def with_stage(index: int, **changes: Any) -> Change:
    """The record with one stage changed."""

    def change(record: ChainRecord) -> ChainRecord:
        stages = list(record.stages)
        stages[index] = replace(stages[index], **changes)
        return replace(record, stages=tuple(stages))

    return change


def with_fields(**changes: Any) -> Change:
    """The record with other fields."""
    return lambda record: replace(record, **changes)


def test_a_lineage_says_what_it_has() -> None:
    """Revisions that are there and data sets that were used, each once, oldest first."""
    assert list(RECORD.faults()) == []
    assert RECORD.revisions == (revision(2), revision(5))
    assert RECORD.datasets == ("d" * 64, "e" * 64)
    assert [each.number for each in RECORD.holders(revision(2))] == [2, 6]
    assert list(RECORD.holders(revision(1))) == []


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("'a b' is no name of a chain", with_fields(name="a b")),
        ("the base: 'x' is no SHA-256", with_fields(base="x")),
        ("the chain: -1 is no time", with_fields(created_at=-1.0)),
        ("the head is stage 1, which has no revision", with_fields(head=1)),
        ("there is no stage 9, with which it began", with_fields(first_number=9)),
        ("the last number given cannot be 5", with_fields(last_number=5)),
        ("the last number given cannot be 1000000001", with_fields(last_number=10**9 + 1)),
        ("'1' is no label", with_fields(labels={"1": 2})),
        (f"'{'a' * 64}' is no label", with_fields(labels={"a" * 64: 2})),
        ("the label old is on stage 4", with_fields(labels={"old": 4})),
        ("its stages are not in order", with_fields(stages=RECORD.stages[::-1])),
        ("its stages are not in order", with_fields(stages=())),
        ("stage 2 belongs to another chain", with_stage(1, chain="other")),
        ("stage 1 is of a chain that was deleted", with_stage(0, revision_deleted_at=None)),
        ("stage 5 is of another base", with_stage(4, base=OTHER)),
        ("two stages have one id", with_stage(4, id="stage-2")),
        ("stage 5: '' is no id of a stage", with_stage(4, id="")),
        ("stage 4 has not ended: it is queued", with_stage(3, state=StageState.QUEUED)),
        ("a trained stage has settings", with_stage(1, origin=Origin.TRAINED)),
        ("stage 5 succeeded and has no revision", with_stage(4, revision=None)),
        ("stage 3 failed without an error", with_stage(2, error=None)),
        ("a revision was deleted that never was", with_stage(3, revision_deleted_at=1.0)),
        ("stage 4 has a revision that it cannot have", with_stage(3, revision=revision(4))),
        ("stage 5 has a revision that it cannot have", with_stage(4, shape=None)),
        ("stage 5: 'X' is no SHA-256", with_stage(4, parent="X")),
        ("stage 5: 1e+300 is no time", with_stage(4, finished_at=1e300)),
    ],
)
def test_what_cannot_be_is_named(fault: str, change: Change) -> None:
    """In words that begin with where."""
    assert any(found.startswith(fault) or fault in found for found in change(RECORD).faults())
