"""``kill -9`` in the middle of a job: it goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from tests.acceptance.extending.product import FINAL, Json, follow
from tests.acceptance.fine_tuning.asking import BASE, BOATS, BREAD, added, upload
from tests.acceptance.serving.process import free_port, started

EPOCHS = 20
"""Of four rows in steps of one row: more steps than lie between two checkpoints."""


def steps_of(sdk: OpenAI, job_id: str) -> list[int]:
    """The steps that a job tells of, as it did them."""
    events = sdk.fine_tuning.jobs.list_events(job_id, limit=1000)
    found: list[Any] = [event.data for event in events if event.message.startswith("Step")]
    return [data["step"] for data in found if "train_loss" in data][::-1]


def until(http: httpx.Client, job_id: str, *, kind: str, **data: Any) -> Json:
    """Wait for the first event of a job that is of this kind and says this."""
    for event in follow(http, job_id.removeprefix("ftjob-")):
        if event["kind"] == kind and data.items() <= event["data"].items():
            return event
    raise AssertionError(f"{job_id} ended without {kind} {data}")


def ended(http: httpx.Client, sdk: OpenAI, job_id: str) -> Any:
    """The job once it has ended, which must have been well."""
    for event in follow(http, job_id.removeprefix("ftjob-")):
        if event["kind"] == "state" and event["data"]["state"] in FINAL:
            break
    job = sdk.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "succeeded", job.error
    return job


def learned(http: httpx.Client, chain: str) -> list[str]:
    """The revisions of a job's two epochs before the last."""
    names = [f"{chain}-1-step-{(EPOCHS - back) * len(BOATS)}" for back in (2, 1)]
    return [http.get(f"/admin/chains/{name}").json()["head_revision"] for name in names]


def test_a_job_goes_on_after_kill_9_and_learns_what_an_undisturbed_one_does(
    tmp_path: Path, tiny_model: Path
) -> None:
    """From its last checkpoint, bit for bit; file, metadata and asked model are as they were."""
    with started(tmp_path, tiny_model, {}, "--port", free_port()) as server:
        url = server.serving()
        child = int(server.said(r"child_started pid=(\d+)")[1])
        with (
            httpx.Client(base_url=url, timeout=60) as http,
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
        ):
            file, measured = upload(sdk, BOATS, "boats.jsonl"), upload(sdk, BREAD)
            fields: Any = {
                "epochs": EPOCHS, "seed": 7, "training_file": file.id,
                "validation_file": measured.id, "metadata": {"team": "boats"},
            }  # fmt: skip
            job = added(sdk, "killed", **fields)
            kept = until(http, job.id, kind="checkpoint")["data"]["step"]
            until(http, job.id, kind="step", step=kept + 2)
            os.kill(child, signal.SIGKILL)
            assert server.serving(times=2) == url

            after = ended(http, sdk, job.id)
            steps = steps_of(sdk, job.id)
            assert steps.count(kept + 1) == steps.count(kept + 2) == 2
            assert sorted(set(steps)) == list(range(1, EPOCHS * len(BOATS) + 1))
            assert steps.count(kept) == 1
            messages = [e.message for e in sdk.fine_tuning.jobs.list_events(job.id, limit=1000)]
            assert messages.count("Training has started.") == 2
            assert messages[0] == "The job has succeeded."
            assert (after.model, after.metadata, after.seed) == (BASE, {"team": "boats"}, 7)
            assert after.created_at == job.created_at
            assert (after.training_file, after.validation_file) == (file.id, measured.id)
            assert sdk.files.retrieve(file.id) == file

            whole = ended(http, sdk, added(sdk, "undisturbed", **fields).id)
            assert after.chainlora["revision"] == whole.chainlora["revision"]
            assert after.trained_tokens == whole.trained_tokens
            tables = [sdk.files.content(each.result_files[0]).text for each in (after, whole)]
            assert tables[0] == tables[1]
            early = [learned(http, name) for name in ("killed", "undisturbed")]
            assert early[0] == early[1]
        assert server.stop() == 0, server.log
