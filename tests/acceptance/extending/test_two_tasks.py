"""Two stages of one chain teach the embedded model two small tasks, beside serving.

One real server process and the official SDK; the tests look at what one course through it gave.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError

from scripts.demo_tasks import AFTER, BEFORE, CHAIN, HEAD, MOST_TOKENS, ORDERS, TICKETS, Task
from scripts.demo_tasks import percent_right as percent
from server.settings import EMBEDDED_NAME
from tests.acceptance.serving.process import ServerProcess

pytestmark = pytest.mark.slow

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Tag the ticket: the app crashes.",
)
_PATIENCE_S = 1800
BESIDE = 4
"""Streams of the base that are followed while a stage trains."""

Bits = tuple[tuple[str, float, tuple[tuple[str, float], ...]], ...]
"""A streamed answer: each token with its log-probability and its five best rivals."""


@dataclass
class Course:
    """What was seen on the way. Percentages are exact held-out answers of 40."""

    right: dict[tuple[str, str], float] = field(default_factory=dict)
    base: dict[str, list[Bits]] = field(default_factory=dict)
    beside: list[tuple[Bits, Bits]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    gone: str = ""


class Student:
    """Takes the course over HTTP."""

    def __init__(self, url: str) -> None:
        self.course = Course()
        self._client = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        self._admin = httpx.AsyncClient(base_url=url, timeout=300)

    async def run(self) -> Course:
        """Measure, teach, measure, teach, measure, delete what the head began with."""
        async with self._client, self._admin:
            await self._base("before")
            await self._measure("before", EMBEDDED_NAME)
            await self._teach(TICKETS)
            await self._base("between")
            await self._measure("stage 1", HEAD)
            await self._teach(ORDERS)
            await self._base("after")
            await self._measure("stage 2", HEAD)
            await self._measure("pin 1", f"{HEAD}@1")
            await self._delete_first()
        return self.course

    async def _measure(self, when: str, model: str) -> None:
        """Both tasks, all held-out prompts of one at the same time."""
        for task in (TICKETS, ORDERS):
            asked = task.held_out()
            answers = await asyncio.gather(*(self._answer(model, each.messages) for each in asked))
            self.course.right[when, task.name] = percent(asked, answers)

    async def _teach(self, task: Task) -> None:
        """Train a stage to its end; the first question to the base streams meanwhile."""
        added = await self._admin.post("/admin/stages", json=task.stage())
        assert added.status_code == 202, added.text
        stage = added.json()
        alone = self.course.base["before"][0]
        for _ in range(BESIDE):
            answer = await self._bits(QUESTIONS[0])
            stage = (await self._admin.get(f"/admin/stages/{stage['id']}")).json()
            if stage["status"] == "running":
                self.course.beside.append((alone, answer))
        url = f"/admin/stages/{stage['id']}/events"
        async with self._admin.stream("GET", url) as events:
            async for _ in events.aiter_lines():
                pass
        stage = (await self._admin.get(f"/admin/stages/{stage['id']}")).json()
        assert stage["status"] == "succeeded", stage["error"]

    async def _delete_first(self) -> None:
        """The revision that stage 2 was trained from."""
        asked = ORDERS.held_out()[:3]
        before = [await self._answer(HEAD, each.messages) for each in asked]
        deleted = await self._admin.delete(f"/admin/chains/{CHAIN}/revisions/1")
        assert deleted.status_code == 200, deleted.text
        after = [await self._answer(HEAD, each.messages) for each in asked]
        self.course.kept = list(zip(before, after, strict=True))
        with pytest.raises(NotFoundError) as refused:
            await self._answer(f"{HEAD}@1", asked[0].messages)
        self.course.gone = refused.value.message

    async def _base(self, when: str) -> None:
        """Every question to the bare base, one after the other."""
        self.course.base[when] = [await self._bits(question) for question in QUESTIONS]

    async def _bits(self, question: str) -> Bits:
        stream = await self._client.chat.completions.create(
            model=EMBEDDED_NAME,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=MOST_TOKENS,
            stream=True,
            logprobs=True,
            top_logprobs=5,
        )
        found = []
        async for chunk in stream:
            reports = chunk.choices[0].logprobs if chunk.choices else None
            for one in (reports and reports.content) or ():
                rivals = tuple((each.token, each.logprob) for each in one.top_logprobs)
                found.append((one.token, one.logprob, rivals))
        return tuple(found)

    async def _answer(self, model: str, messages: Any) -> str:
        made = await self._client.chat.completions.create(
            model=model, messages=list(messages), temperature=0, max_tokens=MOST_TOKENS
        )
        return made.choices[0].message.content or ""


@pytest.fixture(scope="module")
def course(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """The whole of it, once. A prompt is one piece of prefill, whatever else the machine does."""
    # pytest ends what takes 300 s; here that is two trainings on a machine that may be busy.
    faulthandler.dump_traceback_later(_PATIENCE_S, exit=True, file=sys.__stderr__ or 2)
    arguments = ["server.cli", "serve", "--model", str(embedded_model)]
    arguments += ["--served-name", EMBEDDED_NAME, "--port", "0", "--prefill-block-ms", "60000"]
    arguments += ["--data-dir", str(tmp_path_factory.mktemp("two_tasks")), "--no-supervise"]
    server = ServerProcess(arguments, os.environ)
    try:
        url = server.said(rf"serving {EMBEDDED_NAME} at (http://\S+)/v1")[1]
        yield asyncio.run(Student(url).run())
        assert server.stop() == 0, server.log
    finally:
        server.close()


def test_the_base_can_do_neither_task(course: Course) -> None:
    """Under 20 % of the held-out prompts, exactly answered."""
    assert course.right["before", "tickets"] < BEFORE
    assert course.right["before", "orders"] < BEFORE


def test_the_first_stage_teaches_the_first_task(course: Course) -> None:
    """Over 80 %; the other task is still unknown."""
    assert course.right["stage 1", "tickets"] > AFTER
    assert course.right["stage 1", "orders"] < BEFORE


def test_the_second_stage_teaches_the_chain_the_second_task(course: Course) -> None:
    """Over 80 %, by a stage that continues the first one's revision."""
    assert course.right["stage 2", "orders"] > AFTER


def test_the_pin_of_the_first_stage_still_does_the_first_task(course: Course) -> None:
    """What the head has learned since, or forgotten, does not touch it."""
    assert course.right["pin 1", "tickets"] > AFTER
    assert course.right["pin 1", "orders"] < BEFORE


def test_the_base_answers_bit_for_bit_as_before_between_and_after(course: Course) -> None:
    """The same tokens with the same log-probabilities, in the same request shape."""
    assert all(course.base["before"])
    assert course.base["between"] == course.base["before"]
    assert course.base["after"] == course.base["before"]


def test_streams_of_the_base_run_on_while_a_stage_trains(course: Course) -> None:
    """And give the bits that they give on a quiet server."""
    assert len(course.beside) >= BESIDE
    assert all(beside == alone for alone, beside in course.beside)


def test_the_head_needs_no_earlier_revision(course: Course) -> None:
    """Its answers are the same once stage 1's is deleted, whose pin then says so."""
    assert all(before == after for before, after in course.kept)
    assert "deleted" in course.gone
