"""The epochs of a job before its last become chains, once each, whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapters.errors import StorageFull
from adapters.lineage import JobRequest, Origin, Stage, TrainSettings
from adapters.stages.epochs import chain_name
from adapters.states import StageState
from tests.adapters.stages.site import Site

JOB = JobRequest(model="tiny", training_file="file-rows")
SETTINGS = TrainSettings(epochs=4, batch_size=2)
"""Of six rows: twelve steps, an epoch ends after 3, 6, 9 and 12."""


def published(site: Site, stage: Stage) -> list[tuple[str, int]]:
    """Chain and step of each checkpoint of a job but its own revision."""
    _, *early = site.store.jobs.checkpoints(stage.id)
    return [(each.chain, each.record["step"]) for each in early]


def warnings(site: Site, stage: Stage) -> list[str]:
    """What the stage warned of."""
    events = site.store.events.after(stage.id, 0, 1000)
    return [event.data["message"] for event in events if event.kind == "warning"]


def test_the_two_epochs_before_the_last_become_chains(site: Site) -> None:
    """Forks, with what the events told of their step; the checkpoints to resume from are gone."""
    stage = site.claim(settings=SETTINGS, job=JOB)
    assert site.run(stage) is StageState.SUCCEEDED
    assert published(site, stage) == [("bread-1-step-9", 9), ("bread-1-step-6", 6)]
    assert [chain.name for chain in site.store.chains.list()] == [
        "bread",
        "bread-1-step-6",
        "bread-1-step-9",
    ]
    first = site.store.chains.first("bread-1-step-6")
    assert first.origin is Origin.FORKED
    assert first.record["loss"] == site.store.results.losses(stage.id, 6)[0] is not None
    assert site.store.checkpoints.newest_first(stage.id) == []


@pytest.mark.parametrize(
    "asked",
    [{"settings": SETTINGS}, {"settings": replace(SETTINGS, epochs=1), "job": JOB}],
    ids=["no job", "one epoch"],
)
def test_a_stage_leaves_nothing_but_its_own_revision(site: Site, asked: dict[str, Any]) -> None:
    """Where no job asked, or where there is no epoch before the last."""
    stage = site.claim(**asked)
    site.run(stage)
    assert published(site, stage) == []
    assert [chain.name for chain in site.store.chains.list()] == ["bread"]


def test_what_was_published_before_a_full_disk_stays_and_is_not_published_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage goes on from its last step, and finds its epochs there."""
    stage = site.claim(settings=SETTINGS, job=JOB)
    with monkeypatch.context() as full:

        def fail(*_args: Any, **_fields: Any) -> Stage:
            raise StorageFull("full")

        full.setattr(site.store.chains, "publish", fail)
        with pytest.raises(StorageFull):
            site.run(stage)
    before = [chain.head_revision for chain in site.store.chains.list() if chain.head]
    site.store.stages.transition(stage.id, StageState.QUEUED, fence=stage.fence)
    assert site.run(site.claimed()) is StageState.SUCCEEDED
    assert published(site, stage) == [("bread-1-step-9", 9), ("bread-1-step-6", 6)]
    after = [chain.head_revision for chain in site.store.chains.list() if chain.name != "bread"]
    assert after == before
    assert not [
        each for each in site.store.events.after(stage.id, 0, 1000) if each.kind == "warning"
    ]


def test_an_epoch_that_was_lost_is_warned_of(site: Site) -> None:
    """A damaged file costs that checkpoint; the other one and the result are there."""
    stage = site.claim(settings=SETTINGS, job=JOB)

    def damage() -> None:
        if site.steps(stage)[-1:] == [10]:
            dict(site.store.checkpoints.newest_first(stage.id))[6].write_bytes(b"")

    site.run(stage, damage)
    assert published(site, stage) == [("bread-1-step-9", 9)]
    (warning,) = warnings(site, stage)
    assert warning.startswith("The checkpoint of step 6 is not published.")


def test_a_name_has_room_for_the_step(site: Site) -> None:
    """What a chain may be called is bounded."""
    stage = site.claim(chain="b" * 64, settings=SETTINGS, job=JOB)
    assert chain_name(stage, 6) == f"{'b' * 55}-1-step-6"
    assert len(chain_name(stage, 6)) == 64
