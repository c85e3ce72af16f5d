"""What a finished stage measured, as the table that OpenAI's clients download."""

from __future__ import annotations

import json
from typing import Any

from adapters.store.database import Database

_HEADER = "step,train_loss,valid_loss,tokens"


class Results:
    """The results of finished stages, made from their events. May be used from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sizes: dict[str, int] = {}

    def csv(self, stage_id: str) -> str:
        """One line a step that was trained or measured, rising; ``tokens`` counts all so far.

        Losses are nats a token. A stage that came in a chain file has its last line alone: its
        events did not come along.
        """
        rows = self._rows(stage_id)
        lines, tokens = [_HEADER], 0
        for step, row in sorted(rows.items() if rows else self._last(stage_id).items()):
            tokens += int(row.get("tokens", 0))
            loss, valid = row.get("train_loss"), row.get("valid_loss")
            lines.append(f"{step},{_cell(loss)},{_cell(valid)},{tokens}")
        return "\n".join(lines) + "\n"

    def nbytes(self, stage_id: str) -> int:
        """The size of ``csv``, which never changes any more."""
        if stage_id not in self._sizes:
            self._sizes[stage_id] = len(self.csv(stage_id))
        return self._sizes[stage_id]

    def losses(self, stage_id: str, step: int) -> tuple[float | None, float | None]:
        """Of training and of validation after a step; None where it was not measured."""
        row = self._rows(stage_id).get(step, {})
        return row.get("train_loss"), row.get("valid_loss")

    def _rows(self, stage_id: str) -> dict[int, dict[str, Any]]:
        rows: dict[int, dict[str, Any]] = {}
        for event in self._database.all(
            "SELECT kind, data FROM events WHERE stage = ? AND kind IN ('step', 'validation') "
            "ORDER BY id",
            (stage_id,),
        ):
            data = json.loads(event["data"])
            row = rows.setdefault(data["step"], {})
            if event["kind"] == "step":  # again after an interruption: the later one counts
                row["train_loss"], row["tokens"] = data["loss"], data["tokens"]
            else:
                row["valid_loss"] = data["loss"]
        return rows

    def _last(self, stage_id: str) -> dict[int, dict[str, Any]]:
        row = self._database.one("SELECT metrics FROM stages WHERE id = ?", (stage_id,))
        found = {} if row is None else json.loads(row["metrics"])
        if "steps" not in found:
            return {}
        last = {
            "train_loss": found.get("loss"),
            "valid_loss": found.get("validation_loss"),
            "tokens": found.get("trained_tokens", 0),
        }
        return {found["steps"]: last}


def _cell(value: object) -> str:
    return "" if value is None else repr(value)
