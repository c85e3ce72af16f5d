"""Adapters that are given at start: what their chain begins with, once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import ChainExists
from adapters.formats.foreign import Wanted, read_any
from adapters.formats.mlx_lm import write_adapter
from adapters.shape import BaseShape, LoraShape, Target
from adapters.stages.exports import package
from adapters.stages.imports import begin, bring_in, read_arrival
from tests.adapters.store.rig import SHAPE, Rig, adapter, opened, unsynced, unused

ONE_LAYER = BaseShape({}, (Target("model.layers.0.mlp.up_proj", 0, 2, 3),), 4)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on an empty data directory."""
    with unsynced(), opened(tmp_path / "data") as made:
        yield made


def given(path: Path, value: float, shape: LoraShape = SHAPE) -> Path:
    """An adapter's directory at ``path``."""
    write_adapter(path, replace(adapter(value), shape=shape))
    return path


def test_an_adapter_that_was_given_before_changes_nothing(rig: Rig, tmp_path: Path) -> None:
    """What the chain has learned since stays its head; another adapter is refused by name."""
    one = given(tmp_path / "one", 1.0)
    bring_in(rig.store, "pirate", one, ONE_LAYER)
    rig.grow("pirate")
    bring_in(rig.store, "pirate", one, ONE_LAYER)
    assert rig.store.chains.get("pirate").head == 2
    with pytest.raises(ChainExists, match="did not begin with"):
        bring_in(rig.store, "pirate", given(tmp_path / "two", 2.0), ONE_LAYER)


def test_a_name_that_had_a_chain_before_begins_with_what_is_given_now(
    rig: Rig, tmp_path: Path
) -> None:
    """A start after that finds it as it was: the deleted chain's first stage is not the chain's."""
    bring_in(rig.store, "pirate", given(tmp_path / "one", 1.0), ONE_LAYER)
    rig.store.deletion.chain("pirate", unused)
    two = given(tmp_path / "two", 2.0)
    for _ in range(2):
        bring_in(rig.store, "pirate", two, ONE_LAYER)
    assert rig.store.chains.get("pirate").head == 2


def test_the_same_adapter_keeps_the_shape_that_each_chain_was_given(
    rig: Rig, tmp_path: Path
) -> None:
    """One revision, since it answers the same; the second chain's own words go out again."""
    every = replace(SHAPE, keys=None, num_layers=-1)
    begin(rig.store, "a", read_arrival(given(tmp_path / "a", 1.0)), ONE_LAYER)
    begin(rig.store, "b", read_arrival(given(tmp_path / "b", 1.0, every)), ONE_LAYER)
    assert rig.store.revision_count() == 1
    for chain, shape in (("a", SHAPE), ("b", every)):
        assert rig.store.chains.resolve(chain, None).shape == shape
        made = package(rig.store, chain, None, "mlx-lm", Wanted(None, None, "b" * 64))
        folder = tmp_path / f"out-{chain}"
        shutil.unpack_archive(made.path, folder, "zip")
        assert read_any(folder)[0].shape == shape


def test_keys_that_the_base_does_not_have_are_left_out_with_a_warning(
    rig: Rig, tmp_path: Path
) -> None:
    """mlx-lm passes over them; a next stage could do nothing with them."""
    keys = (*(SHAPE.keys or ()), "mlp.switch_mlp.up_proj", "\x1b[2J" * 100)
    arrival = read_arrival(given(tmp_path / "a", 1.0, replace(SHAPE, keys=keys)))
    stage = begin(rig.store, "a", arrival, ONE_LAYER)
    assert rig.store.chains.resolve("a", None).shape == SHAPE
    assert stage.record["warnings"][-1] == (
        "Its keys name 'mlp.switch_mlp.up_proj' and 1 more, which this base does not have; left "
        "out."
    )
