"""A chain's whole lineage as one value, as it travels from one data directory to another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from adapters.lineage import Origin, Stage
from adapters.states import StageState

_HASH = re.compile(r"[0-9a-f]{64}")
_STAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_CHAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_MOST_NUMBER = 10**9
LATEST = 2.0**37
"""Unix seconds, some thousand years ahead: whatever shows a date can show this one."""


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """All that is known of a chain, but the bytes of its revisions.

    ``stages`` have ended and come by number; those below ``first_number`` are of chains that had
    the name before. ``head`` and ``labels`` are stage numbers. ``last_number`` is the highest that
    was ever given, also to a stage that is not among these.
    """

    name: str
    base: str
    created_at: float
    head: int
    first_number: int
    last_number: int
    labels: Mapping[str, int]
    stages: tuple[Stage, ...]

    @property
    def revisions(self) -> tuple[str, ...]:
        """The ids of those that are there, each once, oldest first."""
        found = (stage.revision for stage in self.stages if _is_there(stage))
        return tuple(dict.fromkeys(each for each in found if each is not None))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The ids of the data sets that its stages name, each once, oldest first."""
        requests = [stage.request for stage in self.stages if stage.request is not None]
        found = (each for request in requests for each in (request.dataset, request.validation))
        return tuple(dict.fromkeys(each for each in found if each is not None))

    def holders(self, revision: str) -> Iterator[Stage]:
        """The stages whose revision this is, where it is there."""
        return (each for each in self.stages if _is_there(each) and each.revision == revision)

    def faults(self) -> Iterator[str]:
        """What cannot be so in a lineage, in words; nothing for one that a store gave."""
        if not _CHAIN_NAME.fullmatch(self.name):
            yield f"{self.name[:64]!a} is no name of a chain"
        yield from _hash_faults("the base", [self.base])
        yield from _time_faults("the chain", [self.created_at])
        yield from self._number_faults()
        for stage in self.stages:
            yield from _stage_faults(stage)
            yield from self._place_faults(stage)
        if len({stage.id for stage in self.stages}) < len(self.stages):
            yield "two stages have one id"
        there = {each.number for each in self.stages if _is_there(each)}
        if self.head not in there:
            yield f"the head is stage {self.head}, which has no revision"
        for label, number in self.labels.items():
            if not _LABEL.fullmatch(label) or _HASH.fullmatch(label):
                yield f"{label[:64]!a} is no label"
            elif number not in there:
                yield f"the label {label} is on stage {number}, which has no revision"

    def _number_faults(self) -> Iterator[str]:
        numbers = [stage.number for stage in self.stages]
        if numbers != sorted(set(numbers)) or min(numbers, default=0) < 1:
            yield "its stages are not in order of their numbers"
        if self.first_number not in numbers:
            yield f"there is no stage {self.first_number}, with which it began"
        if not max(numbers, default=0) <= self.last_number <= _MOST_NUMBER:
            yield f"the last number given cannot be {self.last_number}"

    def _place_faults(self, stage: Stage) -> Iterator[str]:
        if stage.chain != self.name:
            yield f"stage {stage.number} belongs to another chain"
        if stage.number < self.first_number:
            if _is_there(stage):
                yield f"stage {stage.number} is of a chain that was deleted, and has a revision"
        elif stage.base != self.base:
            yield f"stage {stage.number} is of another base"


def _is_there(stage: Stage) -> bool:
    return stage.revision is not None and stage.revision_deleted_at is None


def _stage_faults(stage: Stage) -> Iterator[str]:
    where = f"stage {stage.number}"
    if not _STAGE_ID.fullmatch(stage.id):
        yield f"{where}: {stage.id[:64]!a} is no id of a stage"
    if not stage.state.is_final:
        yield f"{where} has not ended: it is {stage.state}"
    if (stage.origin is Origin.TRAINED) != (stage.request is not None):
        yield f"{where}: a trained stage has settings, and no other"
    if stage.state is StageState.SUCCEEDED and stage.revision is None:
        yield f"{where} succeeded and has no revision"
    if stage.state is StageState.FAILED and stage.error is None:
        yield f"{where} failed without an error"
    if stage.revision is None and stage.revision_deleted_at is not None:
        yield f"{where}: a revision was deleted that never was"
    if _is_there(stage) and (stage.state is not StageState.SUCCEEDED or stage.shape is None):
        yield f"{where} has a revision that it cannot have"
    request = stage.request
    named = [stage.base, stage.parent, stage.revision]
    if request is not None:
        named += [request.dataset, request.validation, request.parent]
    yield from _hash_faults(where, named)
    yield from _time_faults(
        where,
        [stage.created_at, stage.started_at, stage.finished_at, stage.revision_deleted_at],
    )


def _hash_faults(where: str, values: Iterable[str | None]) -> Iterator[str]:
    for value in values:
        if value is not None and not _HASH.fullmatch(value):
            yield f"{where}: {value[:64]!a} is no SHA-256"


def _time_faults(where: str, values: Iterable[float | None]) -> Iterator[str]:
    for value in values:
        if value is not None and not 0 <= value <= LATEST:
            yield f"{where}: {value:g} is no time"
