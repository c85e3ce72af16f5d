"""The shortest ways to files and jobs, for the tests of fine-tuning."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from openai import ConflictError, OpenAI
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from tests.acceptance.extending.product import Product
from tests.acceptance.extending.test_rules import BOATS, BREAD

__all__ = ["BASE", "BOATS", "BREAD", "added", "ended", "jsonl", "stopped", "upload", "waited"]

BASE = "tiny"


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a file."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(sdk: OpenAI, rows: Sequence[dict[str, Any]], name: str = "rows.jsonl") -> FileObject:
    """An uploaded file that is ready."""
    file = sdk.files.create(file=(name, io.BytesIO(jsonl(rows))), purpose="fine-tune")
    return sdk.files.wait_for_processing(file.id, poll_interval=0.01)


def added(sdk: OpenAI, suffix: str, *, epochs: int = 2, **fields: Any) -> FineTuningJob:
    """A job on the base, with BOATS unless it brings a file."""
    fields.setdefault("training_file", None)
    training_file = fields.pop("training_file") or upload(sdk, BOATS).id
    return sdk.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        suffix=suffix,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": min(epochs, 50), "batch_size": 1}},
        },
        **fields,
    )


def waited(product: Product, sdk: OpenAI, job_id: str, until: str | None = None) -> FineTuningJob:
    """The job once it has ended, or is ``until``."""
    product.wait(job_id.removeprefix("ftjob-"), until=until)
    return sdk.fine_tuning.jobs.retrieve(job_id)


def ended(product: Product, sdk: OpenAI, job_id: str) -> FineTuningJob:
    """The job once it has succeeded."""
    job = waited(product, sdk, job_id)
    assert job.status == "succeeded", job.error
    return job


def stopped(sdk: OpenAI, *job_ids: str) -> None:
    """No job trains on: each is cancelled, unless it has just ended by itself."""
    for job_id in job_ids:
        with suppress(ConflictError):
            sdk.fine_tuning.jobs.cancel(job_id)
