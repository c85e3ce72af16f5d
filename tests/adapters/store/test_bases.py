"""A data directory may hold the chains of several bases; each sees its own."""

from __future__ import annotations

import pytest

from adapters.errors import ChainExists, ChainNotFound, StageNotFound
from tests.adapters.store.rig import OTHER_BASE, Rig, asked, unused


def test_chains_of_another_base_are_not_there(rig: Rig) -> None:
    """They come back with their base; their names stay taken until they are deleted."""
    rig.grow()
    chains = rig.reopen(OTHER_BASE).chains
    assert rig.store.base == OTHER_BASE
    assert chains.list() == []
    with pytest.raises(ChainNotFound, match="on this base"):
        chains.get("support")
    with pytest.raises(
        ChainExists, match=r"belongs to another base model \(fingerprint bbbbbbbbbbbb"
    ):
        rig.bring_in("support", 5.0)
    rig.bring_in("other", 5.0)
    assert [chain.name for chain in rig.reopen().chains.list()] == ["support"]


def test_a_deleted_chains_name_is_free_for_another_base(rig: Rig) -> None:
    """Its numbers go on there."""
    rig.grow()
    rig.store.deletion.chain("support", unused)
    rig.reopen(OTHER_BASE)
    assert rig.bring_in("support", 5.0).number == 2
    assert rig.store.chains.get("support").base == OTHER_BASE


def test_stages_of_another_base_are_not_there_either(rig: Rig) -> None:
    """A stage is of its chain: neither listed, found nor named by an Idempotency-Key."""
    request = rig.request()
    theirs = rig.store.stages.add(request, asked())
    store = rig.reopen(OTHER_BASE)
    assert store.stages.list(chain=None, state=None, after=None, limit=9).data == []
    with pytest.raises(StageNotFound, match="no stage"):
        store.stages.get(theirs.id)
    mine = store.stages.add(rig.request("other"), asked())
    assert (mine.chain, mine.base) == ("other", OTHER_BASE)
    found = rig.reopen().stages.list(chain=None, state=None, after=None, limit=9)
    assert [stage.id for stage in found.data] == [theirs.id]
