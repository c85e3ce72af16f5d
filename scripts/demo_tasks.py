"""What the tour teaches, what it asks, and what counts as learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.settings import EMBEDDED_NAME

STAGES_DIR = Path(__file__).resolve().parents[1] / "examples" / "stages"
CHAIN = "desk"
HEAD = f"{EMBEDDED_NAME}:{CHAIN}"
MOST_TOKENS = 12
BEFORE, AFTER = 20, 80
"""Held-out answers right, in percent: less than that before a task's stage, more after it."""

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A held-out prompt and the one answer that counts as right."""

    messages: tuple[Message, ...]
    answer: str

    @property
    def prompt(self) -> str:
        """What the user says."""
        return self.messages[-1]["content"]


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


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
