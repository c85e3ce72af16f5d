"""One walk through a running server, from a base that knows neither task to a chain of two."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from scripts.demo_tasks import (
    AFTER,
    BEFORE,
    CHAIN,
    HEAD,
    MOST_TOKENS,
    ORDERS,
    TICKETS,
    Asked,
    Message,
    Task,
    percent_right,
)
from scripts.demo_telling import EVERY, Telling
from server.admin_client import AdminClient, AdminError
from server.settings import EMBEDDED_NAME

BASE, FIRST, LAST = "base", "stage 1", "stage 2, the head"
MODELS = {BASE: EMBEDDED_NAME, FIRST: f"{HEAD}@1", LAST: HEAD}
"""The columns of what is shown side by side."""

_STREAMS = 16
_PATIENCE_S = 300.0
_SHOWN = 3
_QUESTION = Asked(({"role": "user", "content": "What is the capital of France?"},), "")


class Tour:
    """Asks, teaches and moves the head, and tells what came of it.

    ``shares`` are held-out answers right in percent, by column of MODELS and task.
    """

    def __init__(self, url: str, telling: Telling) -> None:
        self.shares: dict[tuple[str, str], float] = {}
        self._telling = telling
        self._admin = AdminClient(url, timeout_s=_PATIENCE_S)
        self._host = urlsplit(url).netloc

    def walk(self) -> None:
        """All of it."""
        say = self._telling
        say.heading(f"The base, {EMBEDDED_NAME}, has learned neither task")
        reference = self._base_answer()
        say.line(f"{_QUESTION.prompt}")
        say.line(f"  -> {reference}")
        self._measure(BASE, EMBEDDED_NAME, TICKETS, below=BEFORE, shown=_SHOWN)
        self._measure(BASE, EMBEDDED_NAME, ORDERS, below=BEFORE, shown=_SHOWN)

        self._teach(TICKETS, reference)
        self._measure(FIRST, HEAD, TICKETS, above=AFTER, shown=_SHOWN)
        self._measure(FIRST, HEAD, ORDERS, below=BEFORE)

        self._teach(ORDERS, reference)
        self._measure(LAST, HEAD, ORDERS, above=AFTER, shown=_SHOWN)
        self._measure(LAST, HEAD, TICKETS)

        shown = [*TICKETS.held_out()[:_SHOWN], *ORDERS.held_out()[:_SHOWN]]
        say.heading("Base, stage 1 and head side by side, asked together; * is right")
        answers = self._side_by_side(shown)
        self._measure(FIRST, MODELS[FIRST], TICKETS, above=AFTER)
        self._turn_back(shown, answers)
        say.expect(self._base_answer() == reference, "the base answers as it did at the start")

    def table(self) -> list[list[str]]:
        """What is right of both tasks, by column of MODELS."""
        rows = [["held-out answers right", *MODELS]]
        for task in (TICKETS, ORDERS):
            found = [self.shares.get((column, task.name)) for column in MODELS]
            cells = ["" if share is None else f"{share:.0f} %" for share in found]
            rows.append([f"{task.name} ({len(task.held_out())})", *cells])
        return rows

    def _teach(self, task: Task, reference: str) -> None:
        """Train a stage of the chain, and ask the base now and then meanwhile."""
        stage = self._admin.post("stages", body=task.stage())
        number = stage["number"]
        again = "" if task.again is None else f", with {task.again[1]} earlier rows again"
        self._telling.heading(f"Stage {number}: {HEAD} learns {task.name}{again}")
        self._telling.line("answers go on meanwhile")
        same = asked = 0
        with self._telling.training(stage) as show:
            for event in self._admin.events(stage["id"]):
                show(event)
                step = event["data"].get("step", 0)
                if event["kind"] == "step" and (step == 1 or step % EVERY == 0):
                    asked += 1
                    same += self._base_answer() == reference
        stage = self._admin.get("stages", stage["id"])
        if stage["status"] != "succeeded":
            raise AdminError(f"Stage {number} is {stage['status']}: {stage['error']}")
        self._telling.line(f"published as {stage['model']}, revision {stage['revision'][:12]}")
        self._telling.expect(
            same == asked, f"the base, asked {asked} times meanwhile: the same answer"
        )

    def _side_by_side(self, asked: Sequence[Asked]) -> list[str]:
        """Show what all of MODELS say, asked in one go; what the head says."""
        questions = [(model, each) for each in asked for model in MODELS.values()]
        said = self._answers(questions, "answers of three models")
        wide = len(MODELS)
        rows = [
            (each.prompt, each.answer, said[wide * index : wide * (index + 1)])
            for index, each in enumerate(asked)
        ]
        self._telling.side_by_side(list(MODELS), rows)
        return said[wide - 1 :: wide]

    def _turn_back(self, asked: Sequence[Asked], before: list[str]) -> None:
        """Roll back, roll forward, and delete what the head was trained from."""
        say, order = self._telling, ORDERS.held_out()[0]
        say.heading("The head moves back and forth; stage 1 is deleted")
        first = self._answer(MODELS[FIRST], order)
        self._admin.post("chains", CHAIN, "rollback", body={"revision": 1})
        say.expect(self._answer(HEAD, order) == first, "rolled back to 1, the head answers as @1")
        self._admin.post("chains", CHAIN, "rollback", body={"revision": 2})
        self._admin.delete("chains", CHAIN, "revisions", "1")
        after = self._answers([(HEAD, each) for each in asked], "answers of the head")
        say.expect(
            after == before,
            f"stage 1 deleted, the head gives the same {len(asked)} answers as before",
        )
        status, body = self._chat(MODELS[FIRST], order.messages)
        say.expect(status == http.HTTPStatus.NOT_FOUND, "the pin @1 is not found, and says why")
        say.line(f"  {body['error']['message']}")

    def _measure(
        self,
        column: str,
        model: str,
        task: Task,
        *,
        below: float | None = None,
        above: float | None = None,
        shown: int = 0,
    ) -> None:
        """Ask all held-out prompts, sixteen at a time, and count the exact answers."""
        asked = task.held_out()
        answers = self._answers([(model, each) for each in asked], f"{task.name}, {model}")
        for each, answer in list(zip(asked, answers, strict=True))[:shown]:
            self._telling.line(each.prompt)
            self._telling.line(f"  -> {answer}")
        share = percent_right(asked, answers)
        self.shares[column, task.name] = share
        told = f"{task.name} right, {model}: {share:.0f} %"
        if below is not None:
            self._telling.expect(share < below, f"{told} (promised: under {below})")
        elif above is not None:
            self._telling.expect(share > above, f"{told} (promised: over {above})")
        else:
            self._telling.line(told)

    def _answers(self, questions: Sequence[tuple[str, Asked]], what: str) -> list[str]:
        """The greedy answers, in order."""
        found = []
        with (
            ThreadPoolExecutor(_STREAMS) as pool,
            self._telling.counting(len(questions), what) as one_more,
        ):
            for answer in pool.map(lambda question: self._answer(*question), questions):
                found.append(answer)
                one_more()
        return found

    def _base_answer(self) -> str:
        """What the bare base says to a plain question."""
        return self._answer(EMBEDDED_NAME, _QUESTION)

    def _answer(self, model: str, asked: Asked) -> str:
        """The greedy answer of ``model``."""
        status, body = self._chat(model, asked.messages)
        if status != http.HTTPStatus.OK:
            raise AdminError(f"{model} did not answer: {body}")
        text: str = body["choices"][0]["message"]["content"]
        return text

    def _chat(self, model: str, messages: Sequence[Message]) -> tuple[int, dict[str, Any]]:
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": MOST_TOKENS}
        connection = http.client.HTTPConnection(self._host, timeout=_PATIENCE_S)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, json.load(response)
        finally:
            connection.close()
