"""Chains over the stages that a test has published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapters.errors import (
    ChainExists,
    RevisionNotFound,
    RevisionProtected,
)
from adapters.lineage import (
    Chain,
    Origin,
    Stage,
)
from tests.administration.state import BASE, State


class FakeChains:
    """The port Chains."""

    def __init__(self, state: State) -> None:
        self._state = state

    def list(self) -> Sequence[Chain]:
        """As the port."""
        return sorted(self._state.chains.values(), key=lambda chain: chain.name)

    def get(self, chain: str) -> tuple[Chain, Sequence[Stage]]:
        """As the port."""
        return self._state.chain(chain), self._state.of(chain)

    def delete(self, chain: str) -> None:
        """As the port."""
        self._state.chain(chain)
        if any(not stage.state.is_final for stage in self._state.of(chain)):
            raise RevisionProtected("A stage of the chain is unfinished; cancel it first.")
        del self._state.chains[chain]

    def delete_revision(self, chain: str, revision: str) -> Stage:
        """As the port."""
        stage = self._state.revision(chain, revision)
        if stage.number == self._state.chain(chain).head:
            raise RevisionProtected(f"Stage {stage.number} is the head of {chain!r}.")
        return self._gone(stage)

    def rollback(self, chain: str, revision: str) -> Chain:
        """As the port."""
        stage = self._state.revision(chain, revision)
        return self._put(chain, head=stage.number, head_revision=stage.revision)

    def fork(self, chain: str, name: str, revision: str | None) -> Chain:
        """As the port."""
        head = str(self._state.chain(chain).head)
        stage = self._state.revision(chain, revision or head)
        if name in self._state.chains:
            raise ChainExists(f"There is a chain {name!r} already.", param="name")
        first = replace(
            stage, id=f"stage_{next(self._state.ids):04d}", chain=name, number=1,
            origin=Origin.FORKED, request=None,
        )  # fmt: skip
        self._state.stages[first.id] = first
        self._state.chains[name] = Chain(name, BASE, self._state.now)
        return self._put(name, head=1, head_revision=stage.revision)

    def prune(self, chain: str, *, keep_last: int) -> Sequence[Stage]:
        """As the port."""
        head = self._state.chain(chain).head
        published = [
            stage
            for stage in self._state.of(chain)
            if stage.revision and stage.revision_deleted_at is None
        ]
        old = published[: len(published) - keep_last]
        return [self._gone(stage) for stage in old if stage.number != head]

    def set_label(self, chain: str, label: str, revision: str) -> Chain:
        """As the port."""
        number = self._state.revision(chain, revision).number
        return self._put(chain, labels={**self._state.chain(chain).labels, label: number})

    def remove_label(self, chain: str, label: str) -> Chain:
        """As the port."""
        labels = dict(self._state.chain(chain).labels)
        if labels.pop(label, None) is None:
            raise RevisionNotFound(f"The chain {chain!r} has no label {label!r}.", param="label")
        return self._put(chain, labels=labels)

    def _put(self, chain: str, **changes: Any) -> Chain:
        found = replace(self._state.chain(chain), **changes)
        self._state.chains[chain] = found
        return found

    def _gone(self, stage: Stage) -> Stage:
        gone = replace(stage, revision_deleted_at=self._state.now)
        self._state.stages[stage.id] = gone
        return gone
