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


async def taught(sdk: AsyncOpenAI, **fields: Any) -> tuple[Any, list[str], str | None]:
    """A job of one epoch once it has ended, what its events said, and what its model answers."""
    job = await sdk.fine_tuning.jobs.create(hyperparameters={"n_epochs": 1}, **fields)
    while job.finished_at is None:
        job = await sdk.fine_tuning.jobs.retrieve(job.id)
    pages = sdk.fine_tuning.jobs.list_events(job.id, limit=3)
    told = [event.message async for event in pages][::-1]
    answer = await sdk.chat.completions.create(
        model=str(job.fine_tuned_model),
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=16,
    )
    return job, told, answer.choices[0].message.content


def test_the_asynchronous_client_does_the_same(product: Product) -> None:
    """Two uploads at once, then a job, a chat, a job on its model, a chat, and its checkpoints."""

    async def upload(sdk: AsyncOpenAI, name: str, rows: Any) -> Any:
        file = await sdk.files.create(file=(name, io.BytesIO(jsonl(rows))), purpose="fine-tune")
        return await sdk.files.wait_for_processing(file.id, poll_interval=0.01)

    async def run() -> tuple[Any, Any, Any]:
        async with AsyncOpenAI(base_url=f"{product.url}/v1", api_key="none") as sdk:
            boats, bread = await asyncio.gather(
                upload(sdk, "c.jsonl", BOATS), upload(sdk, "d.jsonl", BREAD)
            )
            assert (boats.status, bread.status) == ("processed", "processed")
            files = {"training_file": boats.id, "validation_file": bread.id}
            first = await taught(sdk, model=BASE, suffix="async", **files)
            second = await taught(sdk, model=first[0].fine_tuned_model, **files)
            checkpoints = await sdk.fine_tuning.jobs.checkpoints.list(second[0].id)
            return first, second, [each async for each in checkpoints]

    first, second, (checkpoint,) = asyncio.run(run())
    for number, (job, told, said) in enumerate((first, second), start=1):
        assert (job.status, job.error) == ("succeeded", None)
        assert job.fine_tuned_model == f"{BASE}:async@{number}"
        assert (told[0], told[-1]) == ("The job is queued.", "The job has succeeded.")
        assert said
    assert checkpoint.fine_tuned_model_checkpoint == f"{BASE}:async@2"
    assert checkpoint.metrics.valid_loss > 0
