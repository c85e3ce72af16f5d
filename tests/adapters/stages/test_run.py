"""A stage that is interrupted goes on as if it had not been, and leaves as it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.base.load import Base
from adapters.errors import AdapterFileError, ClaimLost, DeviceGone, StorageFull
from adapters.lineage import LoraRequest, Stage
from adapters.stages.asks import Ask
from adapters.stages.journal import Journal
from adapters.states import StageState
from tests.adapters.stages.site import Answers, Site


def test_an_interrupted_stage_ends_with_the_figures_of_an_undisturbed_one(site: Site) -> None:
    """Steps that are done once more after a crash count once."""
    undisturbed = site.claim()
    site.run(undisturbed)
    expected = site.store.stages.get(undisturbed.id)

    crashing = site.claim(chain="other")

    def crash() -> Ask | None:
        if site.steps(crashing)[-1:] == [3]:
            raise DeviceGone("gone")
        return None

    with pytest.raises(DeviceGone):
        site.run(crashing, crash)
    site.store.stages.transition(crashing.id, StageState.QUEUED, fence=crashing.fence)
    assert site.run(site.claimed()) is StageState.SUCCEEDED
    assert site.steps(crashing) == [1, 2, 3, 3, 4, 5, 6]
    found = site.store.stages.get(crashing.id)
    assert found.metrics == expected.metrics
    assert found.revision == expected.revision


def test_a_stage_that_is_interrupted_after_its_last_step_still_knows_its_loss(site: Site) -> None:
    """What is left is the evaluation, which computes no loss of a step."""
    stage = site.claim(samples=("What is dough?",))

    def stopped() -> Ask | None:
        state = site.store.stages.get(stage.id).state
        return Ask.STOP if state is StageState.EVALUATING else None

    assert site.run(stage, stopped) is StageState.QUEUED
    assert site.run(site.claimed()) is StageState.SUCCEEDED
    ended = site.store.stages.get(stage.id)
    assert ended.metrics["loss"] == ended.progress.loss is not None
    assert site.steps(stage) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("ask", "left"),
    [
        (Ask.CANCEL, StageState.CANCELLED),
        (Ask.PAUSE, StageState.PAUSED),
        (Ask.STOP, StageState.QUEUED),
    ],
)
def test_a_stage_that_samples_at_its_end_leaves_as_it_is_asked(
    site: Site, ask: Ask, left: StageState
) -> None:
    """After the answer that is under way, and without publishing anything."""
    stage = site.claim(samples=("one", "two"))
    asks: list[Ask] = []

    def during() -> None:
        if site.store.stages.get(stage.id).state is StageState.EVALUATING:
            asks.append(ask)

    sampler = Answers(during)
    assert site.run(stage, lambda: asks[0] if asks else None, sampler) is left
    assert sampler.prompts == ["one", "two", "one"]
    assert site.store.stages.get(stage.id).state is left
    assert site.store.revision_count() == 0
    kinds = {event.kind for event in site.store.events.after(stage.id, 0, 1000)}
    assert not kinds & {"sample", "warning"}


def test_a_stage_is_left_while_its_rows_are_read(site: Site) -> None:
    """Ten thousand rows take long; the device is not asked for anything."""
    stage = site.claim()
    begun = site.device.pieces
    asks = iter([None, None, None])
    assert site.run(stage, lambda: next(asks, Ask.PAUSE)) is StageState.PAUSED
    assert site.device.pieces == begun


def test_a_parent_whose_files_have_changed_is_not_trained_on(site: Site) -> None:
    """What it would learn on top of would be in no lineage record."""
    site.run(site.claim())
    parent = site.store.chains.resolve("bread", None).revision
    file = site.store.revision_path(str(parent)) / "adapters.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(AdapterFileError, match="not what was published"):
        site.run(site.claim())


def test_a_stage_that_stops_with_a_full_disk_goes_on_from_its_last_checkpoint(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failure: a step is done once more."""
    stage = site.claim()

    def fail(*_: Any, **_fields: Any) -> None:
        raise StorageFull("no room")

    def stopped() -> Ask | None:
        if len(site.steps(stage)) < 3:
            return None
        monkeypatch.setattr(site.store.checkpoints, "add", fail)
        return Ask.STOP

    assert site.run(stage, stopped) is StageState.QUEUED
    monkeypatch.undo()
    assert site.run(site.claimed()) is StageState.SUCCEEDED
    assert site.steps(stage) == [1, 2, 3, 3, 4, 5, 6]


def interrupted(site: Site, chain: str = "bread") -> tuple[Stage, Sequence[Path]]:
    """A stage of its own that was interrupted at step 5 of 6, and its checkpoints, newest first."""
    stage = site.claim(chain=chain)

    def stopped() -> Ask | None:
        return Ask.STOP if len(site.steps(stage)) == 5 else None

    assert site.run(stage, stopped) is StageState.QUEUED
    kept = site.store.checkpoints.newest_first(stage.id)
    assert [step for step, _ in kept] == [5, 4]
    return stage, [file for _, file in kept]


def damage(file: Path, how: str) -> None:
    """As a failing disk, or somebody who tidies up, would."""
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
    else:
        content[-5] ^= 1
        file.write_bytes(content if how == "a bit" else content[:100])


@pytest.mark.parametrize("how", ["a bit", "cut", "gone"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(site: Site, how: str) -> None:
    """The end is bit-equal, an event says what happened, and the damaged one is not tried again."""
    site.run(undisturbed := site.claim(chain="other"))
    stage, files = interrupted(site)
    damage(files[0], how)
    assert site.run(site.claimed()) is StageState.SUCCEEDED
    assert site.steps(stage) == [1, 2, 3, 4, 5, 5, 6]
    revisions = {site.store.stages.get(each.id).revision for each in (stage, undisturbed)}
    assert len(revisions) == 1
    events = site.store.events.after(stage.id, 0, 1000)
    (warning,) = [event.data["message"] for event in events if event.kind == "warning"]
    assert warning.startswith(f"The checkpoint of step 5 cannot be used. {files[0]}")
    assert "goes on from that of step 4" in warning


def test_a_stage_without_a_checkpoint_that_can_be_read_fails(site: Site) -> None:
    """It began, and nobody knows any more where it was; the files stay to be looked at."""
    stage, files = interrupted(site)
    for file in files:
        damage(file, "a bit")
    with pytest.raises(
        AdapterFileError, match=r"step-00000005\.safetensors is damaged.*Add the stage again"
    ):
        site.run(site.claimed())
    assert [step for step, _ in site.store.checkpoints.newest_first(stage.id)] == [5, 4]
    assert all(file.exists() for file in files)


def test_a_stage_whose_claim_was_lost_tells_nothing_more(site: Site) -> None:
    """Whoever has it now would be shown the steps of two attempts at once."""
    stage = site.claim()
    before = site.store.events.after(stage.id, 0, 1000)
    journal = Journal(site.store, replace(stage, fence=stage.fence - 1))
    with pytest.raises(ClaimLost):
        journal.warn("too late")
    assert site.store.events.after(stage.id, 0, 1000) == before


def test_a_stage_keeps_its_chains_shape_though_another_published_the_same_first(
    site: Site, base: Base
) -> None:
    """As many blocks as the base has are all of them: one revision, and each chain's own words."""
    blocks = base.config["num_hidden_layers"]
    for chain, layers in (("all", -1), ("counted", blocks)):
        site.run(site.claim(chain=chain, lora=LoraRequest(rank=2, num_layers=layers)))
    assert site.store.revision_count() == 1
    again = site.claim(chain="counted", lora=LoraRequest(num_layers=blocks))
    assert site.run(again) is StageState.SUCCEEDED
    shape = site.store.stages.get(again.id).shape
    assert shape is not None
    assert shape.num_layers == blocks
