"""The last three epochs of a job are models: its own, and two chains that forked in mid-stage."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tests.acceptance.extending.product import Product
from tests.acceptance.extending.test_rules import assert_served_as_trained
from tests.acceptance.fine_tuning.asking import (
    BASE,
    BOATS,
    BREAD,
    added,
    ended,
    upload,
    waited,
)
from tests.server.api.strict import strictly

JOBS = "/v1/fine_tuning/jobs"


def kept(sdk: OpenAI, job_id: str) -> list[FineTuningJobCheckpoint]:
    """The checkpoints of a job, through the SDK's pager."""
    return list(sdk.fine_tuning.jobs.checkpoints.list(job_id))


def names(checkpoints: list[FineTuningJobCheckpoint]) -> list[str]:
    """What they are served as."""
    return [each.fine_tuned_model_checkpoint for each in checkpoints]


def models(product: Product) -> set[str]:
    """The names that the server lists."""
    return {row["id"] for row in product.ok(product.http.get("/v1/models"))["data"]}


def test_the_last_three_epochs_are_listed_measured_and_served(
    sdk: OpenAI, product: Product
) -> None:
    """Newest first, with the losses that the events told of their steps."""
    job = ended(
        product, sdk, added(sdk, "epochs", epochs=5, validation_file=upload(sdk, BREAD).id).id
    )
    rows = product.ok(product.http.get(f"{JOBS}/{job.id}/checkpoints"))["data"]
    found: list[FineTuningJobCheckpoint] = [strictly(FineTuningJobCheckpoint, row) for row in rows]
    assert [each.step_number for each in found] == [20, 16, 12]
    assert names(found) == [
        f"{BASE}:epochs@1",
        f"{BASE}:epochs-1-step-16@1",
        f"{BASE}:epochs-1-step-12@1",
    ]
    events: list[Any] = [event.data for event in sdk.fine_tuning.jobs.list_events(job.id)]
    for each in found:
        told = [data for data in events if data.get("step") == each.step_number]
        assert each.metrics.train_loss in [data.get("train_loss") for data in told]
        assert each.metrics.valid_loss in [data.get("valid_loss") for data in told]
        assert each.metrics.full_valid_loss == each.metrics.valid_loss
    revisions = set()
    for name in names(found):
        chain = product.ok(product.http.get(f"/admin/chains/{name.split(':')[1].split('@')[0]}"))
        revisions.add(chain["head_revision"])
        assert_served_as_trained(product, name, chain["head_revision"])
    assert len(revisions) == 3


def test_a_job_goes_on_from_what_an_epoch_had_learned(sdk: OpenAI, product: Product) -> None:
    """To the bit: the validation loss at its step 0 is the checkpoint's."""
    file, measured = upload(sdk, BOATS).id, upload(sdk, BREAD).id
    fields: Any = {"training_file": file, "validation_file": measured}
    first = ended(product, sdk, added(sdk, "early", epochs=2, **fields).id)
    last, early = kept(sdk, first.id)
    job = sdk.fine_tuning.jobs.create(
        model=early.fine_tuned_model_checkpoint, hyperparameters={"n_epochs": 1}, **fields
    )
    job = ended(product, sdk, job.id)
    assert job.fine_tuned_model == f"{BASE}:early-1-step-4@2"
    began = product.events(job.id.removeprefix("ftjob-"), "validation")[0]
    assert (began["step"], began["loss"]) == (0, early.metrics.valid_loss)
    assert last.metrics.valid_loss != early.metrics.valid_loss
    assert names(kept(sdk, first.id)) == [f"{BASE}:early@1", f"{BASE}:early-1-step-4@1"]


def test_pages_of_checkpoints_follow_each_other(sdk: OpenAI, product: Product) -> None:
    """One at a time they are the same; a place that no page ended at is refused."""
    job = ended(product, sdk, added(sdk, "paged", epochs=3).id)
    single = list(sdk.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert names(single) == names(kept(sdk, job.id))
    assert len(single) == 3
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.fine_tuning.jobs.checkpoints.list(job.id, after="ftckpt_nothing")
    assert caught.value.param == "after"


def test_what_was_deleted_is_no_longer_listed(sdk: OpenAI, product: Product) -> None:
    """A checkpoint's chain goes by itself; the job's model stays."""
    job = ended(product, sdk, added(sdk, "thinned", epochs=2).id)
    product.ok(product.http.delete("/admin/chains/thinned-1-step-4"))
    assert names(kept(sdk, job.id)) == [f"{BASE}:thinned@1"]
    assert product.answer(f"{BASE}:thinned@1", "What is a keel?")


def test_a_copy_under_another_name_is_no_checkpoint(sdk: OpenAI, product: Product) -> None:
    """A checkpoint's chain goes into a chain file and comes back as any other does."""
    job = ended(product, sdk, added(sdk, "copied", epochs=2).id)
    packed = product.http.get("/admin/chains/copied-1-step-4/archive").content
    product.ok(
        product.http.post("/admin/chains", files={"file": packed}, data={"name": "the-copy"})
    )
    asked = "What is a keel?"
    assert product.answer(f"{BASE}:the-copy", asked) == product.answer(
        f"{BASE}:copied-1-step-4", asked
    )
    assert names(kept(sdk, job.id)) == [f"{BASE}:copied@1", f"{BASE}:copied-1-step-4@1"]


def test_a_cancelled_job_leaves_no_model(sdk: OpenAI, product: Product) -> None:
    """Nor does a stage of /admin, which asked for its own result alone, leave any but that."""
    job = added(sdk, "ended", epochs=50)
    sdk.fine_tuning.jobs.cancel(job.id)
    waited(product, sdk, job.id)
    product.train("alone", BOATS, epochs=3)
    assert [name for name in models(product) if ":ended" in name or ":alone" in name] == [
        f"{BASE}:alone"
    ]


def test_a_taken_name_costs_the_checkpoint_and_not_the_job(sdk: OpenAI, product: Product) -> None:
    """It is warned of, and the chain that has the name stays as it is."""
    product.train("taken-1-step-4", BREAD, epochs=1)
    head = product.ok(product.http.get("/admin/chains/taken-1-step-4"))["head_revision"]
    job = ended(product, sdk, added(sdk, "taken", epochs=2).id)
    assert names(kept(sdk, job.id)) == [f"{BASE}:taken@1"]
    warnings = product.events(job.id.removeprefix("ftjob-"), "warning")
    assert "step 4 is not published. There is a chain 'taken-1-step-4'" in warnings[0]["message"]
    assert product.ok(product.http.get("/admin/chains/taken-1-step-4"))["head_revision"] == head
