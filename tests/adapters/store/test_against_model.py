"""Any list of operations leaves the store where the rules say, file by file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters.errors import AdapterError
from adapters.formats.mlx_lm import read_adapter
from adapters.formats.revision import revision_id
from adapters.lineage import Stage
from adapters.states import StageState
from adapters.store import Store
from tests.adapters.store.model import Model, Refused
from tests.adapters.store.rig import BASE, FAULT, Clock, Rig, adapter

NAMES = st.sampled_from(["a", "b", "c"])
PINS = st.one_of(st.none(), st.integers(0, 6), st.sampled_from(["stable", "next"]))
LABELS = st.sampled_from(["stable", "next"])
VALUES = st.integers(1, 4)
"""Few, so that chains come to share revisions."""


class StoreMachine(RuleBasedStateMachine):
    """Does everything twice: to a store and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "data"
        clock = Clock()
        self.rig = Rig(path, Store(path, clock=clock, base=BASE), clock)
        self.model = Model()
        self.claimed: dict[tuple[str, int], Stage] = {}

    def teardown(self) -> None:
        """Give the files back."""
        self.rig.store.close()
        self.directory.cleanup()

    def both(self, real: Callable[[], Any], modelled: Callable[[], Any]) -> tuple[Any, Any]:
        """The results of both, which are refused together and for the same reason."""
        results = []
        for call in (modelled, real):
            try:
                results.append((call(), ""))
            except Refused as refused:
                results.append((None, str(refused)))
            except AdapterError as refused:
                results.append((None, type(refused).__name__))
        (expected, reason), (found, real_reason) = results
        assert real_reason == reason
        return found, expected

    def in_use(self, revision: str) -> bool:
        """Whether a request uses it."""
        return revision in self.model.used

    @rule(name=NAMES, priority=st.integers(-1, 1), parent=st.one_of(st.none(), VALUES))
    def add(self, name: str, priority: int, parent: int | None) -> None:
        """Queue a stage, some with a parent of their own choice."""
        wanted = None if parent is None else revision_id(adapter(float(parent)))
        stage = self.rig.add(name, priority=priority, parent=wanted)
        assert stage.number == self.model.add(name, priority, wanted)

    @rule()
    def claim(self) -> None:
        """Start what comes next."""
        stage, expected = self.rig.store.claim(), self.model.claim()
        found = None if stage is None else (stage.chain, stage.number)
        assert found == expected
        if stage is not None:
            self.claimed[(stage.chain, stage.number)] = stage

    @precondition(lambda self: self.claimed)
    @rule(value=VALUES)
    def publish(self, value: int) -> None:
        """End the stage that was started last with a revision."""
        (name, number), stage = self.claimed.popitem()
        done = self.rig.publish(stage, float(value))
        self.model.publish(name, number, str(done.revision))

    @precondition(lambda self: self.claimed)
    @rule(to=st.sampled_from(["failed", "queued", "paused", "cancelled"]))
    def leave(self, to: str) -> None:
        """End the attempt that was started last without one."""
        (name, number), stage = self.claimed.popitem()
        if to == "failed":
            self.rig.store.stages.fail(stage.id, stage.fence, FAULT)
        else:
            self.rig.store.stages.transition(stage.id, StageState(to), fence=stage.fence)
        self.model.chains[name].stages[number].state = to

    @rule(data=st.data(), to=st.sampled_from(["queued", "paused", "cancelled"]))
    def move(self, data: st.DataObject, to: str) -> None:
        """Pause, resume or cancel any stage."""
        known = [(name, number) for name, c in self.model.chains.items() for number in c.stages]
        if not known:
            return
        name, number = data.draw(st.sampled_from(known))
        stage = self.rig.store.chains.stage(name, number)
        self.both(
            lambda: self.rig.store.stages.transition(stage.id, StageState(to)),
            lambda: self.model.move(name, number, to),
        )

    @rule(name=NAMES, value=VALUES)
    def bring_in(self, name: str, value: int) -> None:
        """Begin a chain with an adapter from elsewhere."""
        revision = revision_id(adapter(float(value)))
        self.both(
            lambda: self.rig.bring_in(name, float(value)),
            lambda: self.model.begin(name, revision),
        )

    @rule(name=NAMES, new=NAMES, pin=PINS)
    def fork(self, name: str, new: str, pin: int | str | None) -> None:
        """Begin a chain with another's revision."""
        self.both(
            lambda: self.rig.store.chains.fork(name, new, pin),
            lambda: self.model.begin(new, str(self.model.resolve(name, pin).revision)),
        )

    @rule(name=NAMES, pin=PINS)
    def rollback(self, name: str, pin: int | str | None) -> None:
        """Move a head."""
        self.both(
            lambda: self.rig.store.chains.rollback(name, pin),
            lambda: self.model.rollback(name, pin),
        )

    @rule(name=NAMES, label=LABELS, pin=PINS)
    def label(self, name: str, label: str, pin: int | str | None) -> None:
        """Point a label."""
        self.both(
            lambda: self.rig.store.chains.set_label(name, label, pin),
            lambda: self.model.label(name, label, pin),
        )

    @rule(name=NAMES, label=LABELS)
    def unlabel(self, name: str, label: str) -> None:
        """Take a label away."""
        self.both(
            lambda: self.rig.store.chains.remove_label(name, label),
            lambda: self.model.unlabel(name, label),
        )

    @rule(name=NAMES, pin=PINS)
    def use(self, name: str, pin: int | str | None) -> None:
        """A request begins on a revision, and does not end before the next restart."""
        stage, _ = self.both(
            lambda: self.rig.store.chains.resolve(name, pin),
            lambda: self.model.resolve(name, pin),
        )
        if stage is not None:
            self.model.used.add(stage.revision)

    @rule(name=NAMES, pin=PINS)
    def delete(self, name: str, pin: int | str | None) -> None:
        """Delete a revision."""
        self.both(
            lambda: self.rig.store.deletion.revision(name, pin, self.in_use),
            lambda: self.model.delete(name, pin),
        )

    @rule(name=NAMES, keep=st.integers(0, 3))
    def prune(self, name: str, keep: int) -> None:
        """Delete all but the newest."""
        gone, expected = self.both(
            lambda: self.rig.store.deletion.prune(name, keep, self.in_use),
            lambda: self.model.prune(name, keep),
        )
        assert gone is None or [stage.number for stage in gone] == expected

    @rule(name=NAMES)
    def delete_chain(self, name: str) -> None:
        """End a name."""
        self.both(
            lambda: self.rig.store.deletion.chain(name, self.in_use),
            lambda: self.model.delete_chain(name),
        )

    @rule()
    def restart(self) -> None:
        """Stop the process and start it again."""
        self.rig.reopen()
        self.model.restart()
        self.claimed.clear()

    @invariant()
    def they_agree(self) -> None:
        """Chains, heads, labels, every stage, and what lies on the disk."""
        chains = self.rig.store.chains
        found = {chain.name: (chain.head, dict(chain.labels)) for chain in chains.list()}
        names = self.model.names()
        assert found == {
            name: (self.model.chains[name].head, self.model.chains[name].labels) for name in names
        }
        for name in names:
            stages = [
                (each.number, each.state.value, each.revision, each.parent, bool(each.error))
                for each in chains.stages(name)
            ]
            assert stages == [
                (each.number, each.state, each.revision, each.parent, each.state == "failed")
                for each in self.model.chains[name].stages.values()
            ]
        assert self.rig.revisions() == self.model.revisions()

    @invariant()
    def revisions_are_whole(self) -> None:
        """What lies under a hash has that hash."""
        for name in self.rig.revisions():
            assert revision_id(read_adapter(self.rig.store.revision_path(name))) == name


def test_the_store_agrees_with_the_rules() -> None:
    """Whatever is done in whatever order."""
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=20, stateful_step_count=30)
    )
