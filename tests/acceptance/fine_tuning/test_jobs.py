"""Jobs are stages seen in OpenAI's words: what either view does, the other one tells."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tests.acceptance.extending.product import Product, serving
from tests.acceptance.fine_tuning.asking import (
    BASE,
    BOATS,
    BREAD,
    added,
    ended,
    stopped,
    upload,
    waited,
)
from tests.server.api.strict import strictly

JOBS = "/v1/fine_tuning/jobs"
OURS = {"chainlora"}


def reference(row: dict[str, Any]) -> dict[str, Any]:
    """A row without our own object, its nulls where the SDK's types have an optional field."""
    return {name: value for name, value in row.items() if name not in OURS}


def test_objects_are_the_reference_s_field_by_field(sdk: OpenAI, product: Product) -> None:
    """Job, events and checkpoint; whatever is ours is in the object ``chainlora``."""
    job = ended(product, sdk, added(sdk, "fields", metadata={"team": "boats"}).id)
    row = product.ok(product.http.get(f"{JOBS}/{job.id}"))
    seen: FineTuningJob = strictly(FineTuningJob, reference(row))
    assert seen.metadata == {"team": "boats"}
    assert seen.method is not None
    assert seen.method.supervised is not None
    assert seen.method.supervised.hyperparameters is not None
    assert seen.method.supervised.hyperparameters.n_epochs == seen.hyperparameters.n_epochs == 2
    assert (seen.hyperparameters.batch_size, seen.estimated_finish) == (1, None)
    assert seen.finished_at is not None
    assert seen.trained_tokens
    for each in product.ok(product.http.get(f"{JOBS}/{job.id}/events"))["data"]:
        strictly(FineTuningJobEvent, each)
    checkpoint, *_ = product.ok(product.http.get(f"{JOBS}/{job.id}/checkpoints"))["data"]
    kept: FineTuningJobCheckpoint = strictly(FineTuningJobCheckpoint, checkpoint)
    assert product.answer(kept.fine_tuned_model_checkpoint, "What is a keel?")


def test_both_views_tell_the_same(sdk: OpenAI, product: Product) -> None:
    """A job is a stage of /admin, and a stage of /admin is a job, its data a file."""
    job = added(sdk, "views")
    stage = product.ok(product.http.get(f"/admin/stages/{job.id.removeprefix('ftjob-')}"))
    assert (stage["chain"], stage["number"], stage["settings"]["epochs"]) == ("views", 1, 2)
    ended(product, sdk, job.id)
    stage = product.train("views", BREAD, epochs=1)
    job = sdk.fine_tuning.jobs.retrieve(f"ftjob-{stage['id']}")
    assert (job.status, job.fine_tuned_model) == ("succeeded", stage["model"])
    assert (job.model, job.hyperparameters.n_epochs) == (f"{BASE}:views", 1)
    assert sdk.files.retrieve(job.training_file).purpose == "fine-tune"
    assert job.chainlora["parent"] == stage["parent"]  # type: ignore[attr-defined]
    assert sdk.fine_tuning.jobs.list(limit=1).data[0].id == job.id


def test_what_was_not_trained_is_no_job(sdk: OpenAI, product: Product) -> None:
    """A fork's first stage is in the lineage alone."""
    ended(product, sdk, added(sdk, "forked").id)
    product.ok(product.http.post("/admin/chains/forked/fork", json={"name": "fork"}))
    chain = product.ok(product.http.get("/admin/chains/fork"))
    job_id = f"ftjob-{chain['stages'][0]['id']}"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.fine_tuning.jobs.retrieve(job_id)
    assert (caught.value.code, caught.value.param) == ("stage_not_found", "fine_tuning_job_id")
    assert job_id not in [job.id for job in sdk.fine_tuning.jobs.list()]


def test_a_job_pauses_resumes_and_is_cancelled(sdk: OpenAI, product: Product) -> None:
    """Each state by the reference's word, in the job and in its events."""
    job = added(sdk, "steered", epochs=50)
    waited(product, sdk, job.id, until="running")
    running = sdk.fine_tuning.jobs.retrieve(job.id)
    assert (running.status, running.finished_at, running.trained_tokens) == ("running", None, None)
    sdk.fine_tuning.jobs.pause(job.id)
    paused: Any = waited(product, sdk, job.id, until="paused")
    assert paused.status == "paused"
    assert sdk.fine_tuning.jobs.resume(job.id).status in ("queued", "running")
    sdk.fine_tuning.jobs.cancel(job.id)
    job = waited(product, sdk, job.id)
    assert (job.status, job.fine_tuned_model, job.result_files) == ("cancelled", None, [])
    assert job.finished_at is not None
    newest = sdk.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert newest.message == "The job was cancelled."
    assert list(sdk.fine_tuning.jobs.checkpoints.list(job.id)) == []
    with pytest.raises(openai.ConflictError) as caught:
        sdk.fine_tuning.jobs.cancel(job.id)
    assert caught.value.code == "wrong_state"


def test_a_running_job_says_when_it_will_end(sdk: OpenAI, product: Product) -> None:
    """From the first step on, in the future."""
    job = added(sdk, "estimated", epochs=50)
    stage = job.id.removeprefix("ftjob-")
    next(event for event in product.follow(stage) if event["kind"] == "step")
    job = sdk.fine_tuning.jobs.retrieve(job.id)
    stopped(sdk, job.id)
    assert job.status == "running"
    assert job.estimated_finish is not None
    assert job.estimated_finish >= int(time.time()) - 1
    waited(product, sdk, job.id)


def test_a_job_that_fails_says_why(sdk: OpenAI, product: Product) -> None:
    """In ``error``, and in its newest event."""
    first = ended(product, sdk, added(sdk, "failing", epochs=1).id)
    busy = added(sdk, "busy", epochs=50)
    fields: Any = {"training_file": first.training_file, "hyperparameters": {"n_epochs": 1}}
    ahead = sdk.fine_tuning.jobs.create(model=f"{BASE}:failing", **fields)
    late = sdk.fine_tuning.jobs.create(model=str(first.fine_tuned_model), **fields)
    stopped(sdk, busy.id)
    ended(product, sdk, ahead.id)
    late = waited(product, sdk, late.id)
    assert late.status == "failed"
    assert late.error is not None
    assert (late.error.code, late.error.param) == ("parent_moved", None)
    newest = sdk.fine_tuning.jobs.list_events(late.id, limit=1).data[0]
    assert (newest.level, newest.message) == ("error", late.error.message)


def test_results_are_a_table_by_steps(sdk: OpenAI, product: Product) -> None:
    """Losses of training and validation, and the tokens up to each step."""
    job = added(sdk, "results", validation_file=upload(sdk, BREAD).id)
    job = ended(product, sdk, job.id)
    (result,) = job.result_files
    file = sdk.files.retrieve(result)
    text = sdk.files.content(result).text
    assert (file.purpose, file.bytes) == ("fine-tune-results", len(text))
    assert result in [each.id for each in sdk.files.list(purpose="fine-tune-results")]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["step", "train_loss", "valid_loss", "tokens"]
    assert [int(row["step"]) for row in rows] == list(range(9))
    assert int(rows[-1]["tokens"]) == job.trained_tokens
    assert all(float(row["valid_loss"]) > 0 for row in rows)
    with pytest.raises(openai.BadRequestError) as caught:
        added(sdk, "again", training_file=result)
    assert caught.value.param == "training_file"


def test_auto_is_chosen_by_the_data_and_written_into_the_job(sdk: OpenAI) -> None:
    """Whether it is said or left out; no value is left open."""
    file = upload(sdk, BOATS)
    open_ = sdk.fine_tuning.jobs.create(model=BASE, training_file=file.id, suffix="open")
    auto = sdk.fine_tuning.jobs.create(
        model=BASE, training_file=file.id, suffix="auto",
        hyperparameters={"n_epochs": "auto", "batch_size": "auto",
                         "learning_rate_multiplier": "auto"},
    )  # fmt: skip
    stopped(sdk, open_.id, auto.id)
    assert open_.hyperparameters == auto.hyperparameters
    assert auto.hyperparameters.n_epochs == 25
    assert auto.hyperparameters.batch_size == 1
    assert auto.hyperparameters.learning_rate_multiplier == 1.0


def test_pages_stay_in_place_while_jobs_are_added(sdk: OpenAI, product: Product) -> None:
    """Newest first; the second page begins after the last job of the first."""
    stages = [product.add("pages", BOATS, epochs=50)["id"] for _ in range(5)]
    mine = [f"ftjob-{stage}" for stage in reversed(stages)]
    page = sdk.fine_tuning.jobs.list(limit=2)
    assert [job.id for job in page.data] == mine[:2]
    newer = product.add("pages", BOATS, epochs=50)["id"]
    following = page.get_next_page()
    assert [job.id for job in following.data] == mine[2:4]
    stopped(sdk, f"ftjob-{newer}", *mine)
    for stage in [*stages, newer]:
        product.wait(stage)


def test_pages_of_events_cover_each_event_once(sdk: OpenAI, product: Product) -> None:
    """Newest first, whatever their length."""
    job = ended(product, sdk, added(sdk, "events").id)
    whole = [event.id for event in sdk.fine_tuning.jobs.list_events(job.id, limit=1000)]
    pieces = [event.id for event in sdk.fine_tuning.jobs.list_events(job.id, limit=3)]
    assert whole == pieces
    assert len(set(whole)) == len(whole) > 10


def test_jobs_are_found_by_their_metadata(sdk: OpenAI, product: Product) -> None:
    """By every pair that is asked for; null asks for those without any."""
    wanted = {"team": "a'b", "empty": ""}
    with_both = added(sdk, "tagged", metadata=wanted)
    with_one = added(sdk, "tagged2", metadata={"team": "a'b"})
    without = added(sdk, "untagged")
    stopped(sdk, with_both.id, with_one.id, without.id)
    found = [job.id for job in sdk.fine_tuning.jobs.list(metadata=wanted)]
    assert found == [with_both.id]
    both = [job.id for job in sdk.fine_tuning.jobs.list(metadata={"team": "a'b"})]
    assert both == [with_one.id, with_both.id]
    null = product.ok(product.http.get(JOBS, params={"metadata": "null", "limit": "100"}))
    ids = [row["id"] for row in null["data"]]
    assert without.id in ids
    assert with_one.id not in ids


def test_a_repeated_idempotency_key_is_one_job(sdk: OpenAI) -> None:
    """A client that lost the answer gets the job that it made, the drawn seed too."""
    file = upload(sdk, BOATS)
    asked: Any = {"model": BASE, "training_file": file.id, "suffix": "once"}
    key = {"Idempotency-Key": "once"}
    one, two = (sdk.fine_tuning.jobs.create(**asked, extra_headers=key) for _ in range(2))
    stopped(sdk, one.id)
    assert (one.id, one.seed) == (two.id, two.seed)


def test_jobs_and_files_outlast_a_restart(tiny_model: Path, tmp_path: Path) -> None:
    """A job that ran goes on to its end; metadata, suffix and the asked model are kept."""
    with serving(tiny_model, tmp_path) as running, _client(running) as sdk:
        job = added(sdk, "lasting", epochs=10, metadata={"k": "v"}, seed=5)
        waited(running, sdk, job.id, until="running")
    with serving(tiny_model, tmp_path) as running, _client(running) as sdk:
        after = ended(running, sdk, job.id)
        assert (after.model, after.metadata, after.seed) == (BASE, {"k": "v"}, 5)
        assert (after.training_file, after.fine_tuned_model) == (
            job.training_file,
            f"{BASE}:lasting@1",
        )
        assert after.created_at == job.created_at
        assert running.answer(f"{BASE}:lasting@1", "What is a keel?")
        messages = [each.message for each in sdk.fine_tuning.jobs.list_events(job.id, limit=1000)]
        assert messages.count("Training has started.") == 2


def _client(running: Product) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
