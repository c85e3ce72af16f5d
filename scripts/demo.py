"""The tour: one chain learns two small tasks, one after the other, while it is served.

``./scripts/demo`` starts a server on a free port with a data directory of its own, which is gone
afterwards, and exits with 1 where an accuracy that the tour promises is missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adapters.base.embedded import ensure_embedded
from adapters.errors import AdapterError
from scripts.bench.servers import ServerError, free_port, running
from server.admin_client import AdminClient, AdminError
from server.settings import EMBEDDED_NAME, SettingsError, from_environment_and_flags

STAGES_DIR = Path(__file__).resolve().parents[1] / "examples" / "stages"
CHAIN = "desk"
HEAD = f"{EMBEDDED_NAME}:{CHAIN}"
MOST_TOKENS = 12
BEFORE, AFTER = 20, 80
"""Held-out answers right, in percent: less than that before a task's stage, more after it."""

_STREAMS = 16
_START_S = _PATIENCE_S = 300.0
_QUESTION = "What is the capital of France?"

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A held-out prompt and the one answer that counts as right."""

    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task of ``examples/stages``, and how a stage teaches it.

    ``again`` is a file and how many of its first rows are trained on once more, so that what an
    earlier stage taught is not forgotten.
    """

    name: str
    file: str
    settings: Mapping[str, Any]
    again: tuple[str, int] | None = None

    def held_out(self) -> list[Asked]:
        """The rows that no stage sees."""
        return [
            Asked(tuple(row["messages"][:-1]), row["messages"][-1]["content"])
            for row in _rows(STAGES_DIR / f"{self.file}.heldout.jsonl")
        ]

    def stage(self) -> dict[str, Any]:
        """The body of ``POST /admin/stages``."""
        rows = _rows(STAGES_DIR / f"{self.file}.train.jsonl")
        if self.again is not None:
            file, count = self.again
            rows += _rows(STAGES_DIR / f"{file}.train.jsonl")[:count]
        return {"chain": CHAIN, "examples": rows, **self.settings}


TICKETS = Task("tickets", "task_one", {"iters": 30, "learning_rate": 1e-3})
ORDERS = Task("orders", "task_two", {"iters": 25, "learning_rate": 1e-3}, again=("task_one", 20))


def percent_right(asked: Sequence[Asked], answers: Sequence[str]) -> float:
    """Exact answers; a character too many is a wrong one."""
    right = sum(answer == each.answer for each, answer in zip(asked, answers, strict=True))
    return 100 * right / len(asked)


class Tour:
    """One walk through a running server. ``missed`` are the promises that were not kept."""

    def __init__(self, url: str) -> None:
        self.missed: list[str] = []
        self._began = time.monotonic()
        self._admin = AdminClient(url, timeout_s=_PATIENCE_S)
        self._host = urlsplit(url).netloc

    def walk(self) -> None:
        """All of it, told on standard output."""
        self.say(f"The base, {EMBEDDED_NAME}, has learned neither task")
        self.measure(EMBEDDED_NAME, TICKETS, below=BEFORE, shown=3)
        self.measure(EMBEDDED_NAME, ORDERS, below=BEFORE, shown=3)
        reference = self.base_answer()

        self.teach(TICKETS, reference)
        self.measure(HEAD, TICKETS, above=AFTER, shown=3)
        self.measure(HEAD, ORDERS, below=BEFORE)

        self.teach(ORDERS, reference)
        self.measure(HEAD, ORDERS, above=AFTER, shown=3)
        self.measure(HEAD, TICKETS)
        self.measure(f"{HEAD}@1", TICKETS, above=AFTER)
        self.turn_back(ORDERS.held_out()[0])
        self.expect(self.base_answer() == reference, "the base answers as it did at the start")

    def teach(self, task: Task, reference: str) -> None:
        """Train a stage of the chain, and ask the base now and then meanwhile."""
        stage = self._admin.post("stages", body=task.stage())
        again = "" if task.again is None else f" (and {task.again[1]} earlier rows again)"
        self.say(f"Stage {stage['number']} teaches {HEAD} {task.name}{again}; serving goes on")
        same = asked = 0
        for event in self._admin.events(stage["id"]):
            data = event["data"]
            if event["kind"] == "step" and (data["step"] == 1 or data["step"] % 5 == 0):
                asked += 1
                same += self.base_answer() == reference
                print(
                    f"    step {data['step']:3} of {data['steps']}   loss {data['loss']:6.3f}   "
                    f"{data['tokens_per_s']:4.0f} tokens/s",
                    flush=True,
                )
        stage = self._admin.get("stages", stage["id"])
        if stage["status"] != "succeeded":
            raise AdminError(f"Stage {stage['number']} is {stage['status']}: {stage['error']}")
        self.expect(same == asked, f"{asked} questions to the base meanwhile: the same answer")
        print(f"    published as {stage['model']}, revision {stage['revision'][:12]}")

    def turn_back(self, order: Asked) -> None:
        """Pin, roll back, roll forward, and delete what the head was trained from."""
        self.say("The head moves back and forth; stage 1 is deleted")
        first, second = (self.answer(f"{HEAD}@{number}", order) for number in (1, 2))
        print(f"    {HEAD}@1 -> {first!r}\n    {HEAD}@2 -> {second!r}")
        self._admin.post("chains", CHAIN, "rollback", body={"revision": 1})
        self.expect(self.answer(HEAD, order) == first, "rolled back to 1, the head answers as @1")
        self._admin.post("chains", CHAIN, "rollback", body={"revision": 2})
        self._admin.delete("chains", CHAIN, "revisions", "1")
        self.expect(
            self.answer(HEAD, order) == second, "rolled forward, stage 1 deleted: as @2 before"
        )
        status, body = self._chat(f"{HEAD}@1", order.messages)
        self.expect(status == http.HTTPStatus.NOT_FOUND, f"@1 is gone: {body['error']['message']}")

    def measure(
        self,
        model: str,
        task: Task,
        *,
        below: float | None = None,
        above: float | None = None,
        shown: int = 0,
    ) -> None:
        """Ask all held-out prompts, sixteen at a time, and count the exact answers."""
        asked = task.held_out()
        with ThreadPoolExecutor(_STREAMS) as pool:
            answers = list(pool.map(lambda each: self.answer(model, each), asked))
        for each, answer in list(zip(asked, answers, strict=True))[:shown]:
            print(f"    {each.messages[-1]['content']}\n      -> {answer!r}")
        share = percent_right(asked, answers)
        told = f"{task.name} right, {model}: {share:.0f} %"
        if below is not None:
            self.expect(share < below, f"{told} (promised: under {below})")
        elif above is not None:
            self.expect(share > above, f"{told} (promised: over {above})")
        else:
            print(f"    {told}", flush=True)

    def base_answer(self) -> str:
        """What the bare base says to a plain question."""
        return self.answer(EMBEDDED_NAME, Asked(({"role": "user", "content": _QUESTION},), ""))

    def answer(self, model: str, asked: Asked) -> str:
        """The greedy answer of ``model``."""
        status, body = self._chat(model, asked.messages)
        if status != http.HTTPStatus.OK:
            raise AdminError(f"{model} did not answer: {body}")
        text: str = body["choices"][0]["message"]["content"]
        return text

    def say(self, text: str) -> None:
        """The heading of a part."""
        print(f"\n[{time.monotonic() - self._began:3.0f} s] {text}", flush=True)

    def expect(self, holds: bool, promise: str) -> None:
        """Tell whether a promise was kept, and remember where it was not."""
        print(f"  {'ok ' if holds else 'NOT'} {promise}", flush=True)
        if not holds:
            self.missed.append(promise)

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


def main() -> int:
    """Start a server, walk, end it; 1 where a promise was not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    began = time.monotonic()
    print("chainlora: one chain learns two tasks, one after the other, while it is served")
    try:
        kept = from_environment_and_flags(os.environ, {}).data_dir
        model = ensure_embedded(kept, progress=print)
        with tempfile.TemporaryDirectory(prefix="chainlora-demo-") as work:
            missed = _serve_and_walk(model, Path(work))
    except (AdapterError, AdminError, ServerError, SettingsError, OSError) as error:
        print(f"The tour cannot go on. {error}", file=sys.stderr)
        return 1
    print(
        f"\n{'Not kept: ' + '; '.join(missed) if missed else 'All as promised'}, in "
        f"{time.monotonic() - began:.0f} s."
    )
    return 1 if missed else 0


def _serve_and_walk(model: Path, work: Path) -> list[str]:
    port = free_port()
    arguments = ["server.cli", "serve", "--model", str(model), "--served-name", EMBEDDED_NAME]
    arguments += ["--port", str(port), "--data-dir", str(work / "data"), "--no-supervise"]
    ready, log = "/health/ready", work / "server.log"
    with running(arguments, port=port, ready=ready, log=log, timeout_s=_START_S) as server:
        print(f"serving {EMBEDDED_NAME} at {server.url}/v1 from an empty data directory")
        tour = Tour(server.url)
        tour.walk()
        return tour.missed


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
