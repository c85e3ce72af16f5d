"""The rules of chains without a disk: what the store is compared with.

Written from the rules in the documentation, not from the store: plain dictionaries, one chain's
stages at a time, and the name of the error for whatever is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

UNFINISHED = frozenset({"queued", "running", "paused", "evaluating"})


class Refused(Exception):
    """Named after the error that the store raises."""


@dataclass
class ModelStage:
    """One stage."""

    number: int
    order: int
    state: str = "queued"
    priority: int = 0
    wanted: str | None = None
    parent: str | None = None
    revision: str | None = None
    is_deleted: bool = False
    has_started: bool = False

    @property
    def is_present(self) -> bool:
        """Whether there is something to serve."""
        return self.revision is not None and not self.is_deleted


@dataclass
class ModelChain:
    """One name; ``last`` outlives its deletion."""

    stages: dict[int, ModelStage] = field(default_factory=dict)
    last: int = 0
    head: int | None = None
    labels: dict[str, int] = field(default_factory=dict)
    is_deleted: bool = False


class Model:
    """All chains of one base, and the revisions that requests use."""

    def __init__(self) -> None:
        self.chains: dict[str, ModelChain] = {}
        self.used: set[str] = set()
        self._order = 0

    def chain(self, name: str) -> ModelChain:
        """A chain that is there."""
        found = self.chains.get(name)
        if found is None or found.is_deleted:
            raise Refused("ChainNotFound")
        return found

    def names(self) -> list[str]:
        """Of the chains that are there."""
        return sorted(name for name, each in self.chains.items() if not each.is_deleted)

    def resolve(self, name: str, pin: int | str | None) -> ModelStage:
        """What a name means."""
        chain = self.chain(name)
        number = chain.head if pin is None else chain.labels.get(pin, pin)  # type: ignore[arg-type]
        stage = chain.stages.get(number) if isinstance(number, int) else None
        if stage is None or not stage.is_present:
            raise Refused("RevisionNotFound")
        return stage

    def add(self, name: str, priority: int, wanted: str | None) -> int:
        """The number of a new queued stage."""
        stage = self._new(name)
        stage.priority, stage.wanted = priority, wanted
        return stage.number

    def begin(self, name: str, revision: str) -> None:
        """A chain that begins with a finished revision."""
        if name in self.names():
            raise Refused("ChainExists")
        stage = self._new(name)
        stage.state, stage.revision = "succeeded", revision
        self.chains[name].head = stage.number

    def _new(self, name: str) -> ModelStage:
        chain = self.chains.setdefault(name, ModelChain())
        chain.is_deleted = False
        chain.last += 1
        self._order += 1
        stage = ModelStage(chain.last, self._order)
        chain.stages[chain.last] = stage
        return stage

    def claim(self) -> tuple[str, int] | None:
        """The chain and number that run next; those whose parent moved fail on the way."""
        while (found := self._next()) is not None:
            name, stage = found
            if not stage.has_started:
                chain = self.chains[name]
                head = None if chain.head is None else chain.stages[chain.head].revision
                if stage.wanted is not None and stage.wanted != head:
                    stage.state = "failed"
                    continue
                stage.parent = head
            stage.state, stage.has_started = "running", True
            return name, stage.number
        return None

    def _next(self) -> tuple[str, ModelStage] | None:
        ready: list[tuple[int, int, str, ModelStage]] = []
        for name, chain in self.chains.items():
            states = [stage.state for stage in chain.stages.values()]
            if "running" in states or "evaluating" in states:
                continue
            waiting = [
                stage
                for stage in chain.stages.values()
                if stage.state == "queued" or (stage.state == "paused" and stage.has_started)
            ]
            first = min(waiting, key=lambda stage: stage.number, default=None)
            if first is not None and first.state == "queued":
                ready.append((-first.priority, first.order, name, first))
        return min(ready)[2:] if ready else None

    def publish(self, name: str, number: int, revision: str) -> None:
        """A running stage ends with its revision; it is the head if its parent still was."""
        chain = self.chains[name]
        head = None if chain.head is None else chain.stages[chain.head].revision
        chain.stages[number].state = "succeeded"
        chain.stages[number].revision = revision
        if head == chain.stages[number].parent:
            chain.head = number

    def move(self, name: str, number: int, state: str) -> None:
        """A stage that nobody holds changes its state."""
        allowed = {
            "queued": {"paused", "cancelled"},
            "paused": {"queued", "cancelled"},
        }
        stage = self.chains[name].stages[number]
        if state not in allowed.get(stage.state, set()):
            raise Refused("WrongState")
        stage.state = state

    def rollback(self, name: str, pin: int | str | None) -> None:
        """Move the head."""
        self.chains[name].head = self.resolve(name, pin).number

    def label(self, name: str, label: str, pin: int | str | None) -> None:
        """Point a label."""
        self.chain(name).labels[label] = self.resolve(name, pin).number

    def unlabel(self, name: str, label: str) -> None:
        """Take a label away."""
        if self.chain(name).labels.pop(label, None) is None:
            raise Refused("RevisionNotFound")

    def delete(self, name: str, pin: int | str | None) -> None:
        """Delete one revision."""
        stage = self.resolve(name, pin)
        if self._is_protected(name, stage):
            raise Refused("RevisionProtected")
        stage.is_deleted = True

    def prune(self, name: str, keep: int) -> list[int]:
        """The numbers whose revision goes."""
        present = [each for each in self.chain(name).stages.values() if each.is_present]
        old = present[: max(0, len(present) - keep)]
        gone = [stage for stage in old if not self._is_protected(name, stage)]
        for stage in gone:
            stage.is_deleted = True
        return [stage.number for stage in gone]

    def delete_chain(self, name: str) -> None:
        """End a name."""
        chain = self.chain(name)
        stages = chain.stages.values()
        if any(each.state in UNFINISHED for each in stages) or any(
            each.is_present and each.revision in self.used for each in stages
        ):
            raise Refused("RevisionProtected")
        for stage in stages:
            stage.is_deleted = stage.revision is not None
        chain.head, chain.labels, chain.is_deleted = None, {}, True

    def restart(self) -> None:
        """What runs is given back."""
        for chain in self.chains.values():
            for stage in chain.stages.values():
                if stage.state in {"running", "evaluating"}:
                    stage.state = "queued"
        self.used.clear()

    def revisions(self) -> set[str]:
        """All that are there."""
        return {
            str(stage.revision)
            for chain in self.chains.values()
            for stage in chain.stages.values()
            if stage.is_present
        }

    def _is_protected(self, name: str, stage: ModelStage) -> bool:
        chain = self.chains[name]
        return (
            chain.head == stage.number
            or stage.number in chain.labels.values()
            or stage.revision in self.used
            or any(
                stage.revision in (each.parent, each.wanted)
                for each in chain.stages.values()
                if each.state in UNFINISHED
            )
        )
