"""OpenAI's own SDK teaches a chain, asks it, and goes on teaching it, with no other API."""

from __future__ import annotations

import asyncio
import io
from typing import Any

from openai import AsyncOpenAI, OpenAI

from tests.acceptance.extending.product import Product
from tests.acceptance.fine_tuning.asking import BASE, BOATS, BREAD, jsonl

QUESTION = "What is a rudder?"
ANSWER = "A blade that steers a boat."
LEARN: Any = {
    "type": "supervised",
    "supervised": {
        "hyperparameters": {
            "n_epochs": 30,
            "batch_size": 4,
            "learning_rate_multiplier": 50,
        }
    },
}


def follow(sdk: OpenAI, job_id: str) -> list[Any]:
    """All events of a job that has ended, oldest first, as a client that polls sees them."""
    while sdk.fine_tuning.jobs.retrieve(job_id).finished_at is None:
        newest = sdk.fine_tuning.jobs.list_events(job_id, limit=1)
        assert newest.data[0].object == "fine_tuning.job.event"
    return [*sdk.fine_tuning.jobs.list_events(job_id, limit=7)][::-1]


def said(sdk: OpenAI, model: str) -> str | None:
    """The greedy answer to QUESTION."""
    answer = sdk.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=16,
    )
    return answer.choices[0].message.content


def test_upload_wait_create_follow_chat_and_once_more(sdk: OpenAI) -> None:
    """The second job goes on with the first one's model, and knows what both taught."""
    first_file = sdk.files.create(file=("a.jsonl", io.BytesIO(jsonl(BOATS))), purpose="fine-tune")
    assert sdk.files.wait_for_processing(first_file.id).status == "processed"
    first = sdk.fine_tuning.jobs.create(
        model=BASE, training_file=first_file.id, suffix="sailor", method=LEARN, seed=7
    )
    assert (first.model, first.fine_tuned_model, first.seed) == (BASE, None, 7)
    events = follow(sdk, first.id)
    first = sdk.fine_tuning.jobs.retrieve(first.id)
    assert (first.status, first.fine_tuned_model) == ("succeeded", f"{BASE}:sailor@1")
    assert [event.message for event in events[:2]] == [
        "The job is queued.",
        "Training has started.",
    ]
    steps = [event for event in events if event.type == "metrics"]
    assert len(steps) == 30
    assert steps[-1].data["train_loss"] < steps[0].data["train_loss"]
    assert said(sdk, f"{BASE}:sailor@1") == ANSWER

    second_file = sdk.files.create(file=("b.jsonl", io.BytesIO(jsonl(BREAD))), purpose="fine-tune")
    second = sdk.fine_tuning.jobs.create(
        model=str(first.fine_tuned_model), training_file=second_file.id, method=LEARN
    )
    follow(sdk, second.id)
    second = sdk.fine_tuning.jobs.retrieve(second.id)
    assert (second.model, second.fine_tuned_model) == (f"{BASE}:sailor@1", f"{BASE}:sailor@2")
    assert said(sdk, f"{BASE}:sailor@1") == ANSWER
    assert said(sdk, f"{BASE}:sailor@2")


def test_the_asynchronous_client_does_the_same(product: Product) -> None:
    """Two uploads at once, then a job and its checkpoints."""

    async def run() -> tuple[Any, Any]:
        async with AsyncOpenAI(base_url=f"{product.url}/v1", api_key="none") as sdk:
            files = await asyncio.gather(
                *(
                    sdk.files.create(file=(name, io.BytesIO(jsonl(rows))), purpose="fine-tune")
                    for name, rows in (("c.jsonl", BOATS), ("d.jsonl", BREAD))
                )
            )
            job = await sdk.fine_tuning.jobs.create(
                model=BASE,
                training_file=files[0].id,
                validation_file=files[1].id,
                suffix="async",
                hyperparameters={"n_epochs": 1},
            )
            while job.finished_at is None:
                job = await sdk.fine_tuning.jobs.retrieve(job.id)
            checkpoints = await sdk.fine_tuning.jobs.checkpoints.list(job.id)
            return job, [each async for each in checkpoints]

    job, (checkpoint,) = asyncio.run(run())
    assert (job.status, job.error) == ("succeeded", None)
    assert checkpoint.fine_tuned_model_checkpoint == f"{BASE}:async@1"
    assert checkpoint.metrics.valid_loss > 0
