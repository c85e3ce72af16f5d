"""Rows to values and back."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from adapters.lineage import (
    Chain,
    Dataset,
    Fault,
    JobRequest,
    LoraRequest,
    Origin,
    Progress,
    Stage,
    StageEvent,
    StageRequest,
    TrainSettings,
)
from adapters.shape import LoraShape
from adapters.states import StageState


def dump(value: Any) -> str:
    """JSON of a dataclass or of plain values; refuses NaN."""
    is_value = dataclasses.is_dataclass(value) and not isinstance(value, type)
    plain = dataclasses.asdict(value) if is_value else value
    return json.dumps(plain, allow_nan=False, separators=(",", ":"))


Reasons = Mapping[str, str]
"""Why which revision cannot be served, by its id."""


def stage_of(row: sqlite3.Row, unavailable: Reasons) -> Stage:
    """A row of ``stages``."""
    error, is_deleted = row["error"], row["revision_deleted_at"] is not None
    return Stage(
        id=row["id"],
        chain=row["chain"],
        number=row["number"],
        base=row["base"],
        origin=Origin(row["origin"]),
        state=StageState(row["state"]),
        created_at=row["created_at"],
        request=_request(row["request"]),
        parent=row["parent"],
        revision=row["revision"],
        revision_deleted_at=row["revision_deleted_at"],
        unavailable=None if is_deleted else unavailable.get(row["revision"]),
        shape=shape_of(row["shape"]),
        progress=Progress(**json.loads(row["progress"])),
        metrics=json.loads(row["metrics"]),
        record=json.loads(row["record"]),
        error=None if error is None else Fault(**json.loads(error)),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        fence=row["fence"],
    )


def shape_of(text: str | None) -> LoraShape | None:
    """A shape that ``dump`` wrote."""
    if text is None:
        return None
    value = json.loads(text)
    keys = value.pop("keys")
    return LoraShape(**value, keys=None if keys is None else tuple(keys))


def chain_of(row: sqlite3.Row, labels: dict[str, int], unavailable: Reasons) -> Chain:
    """A row of ``chains`` joined with its head's revision."""
    return Chain(
        name=row["name"],
        base=row["base"],
        created_at=row["created_at"],
        head=row["head"],
        head_revision=row["head_revision"],
        unavailable=unavailable.get(row["head_revision"]),
        labels=labels,
    )


def event_of(row: sqlite3.Row) -> StageEvent:
    """A row of ``events``."""
    return StageEvent(row["id"], row["stage"], row["at"], row["kind"], json.loads(row["data"]))


def dataset_of(row: sqlite3.Row) -> Dataset:
    """A row of ``datasets``."""
    return Dataset(row["id"], row["nbytes"], row["rows"], row["created_at"], row["name"])


def _request(text: str | None) -> StageRequest | None:
    if text is None:
        return None
    value = json.loads(text)
    lora = value.pop("lora")
    if lora is not None and lora["keys"] is not None:
        lora["keys"] = tuple(lora["keys"])
    job = value.pop("job", None)  # stages of earlier versions have none
    return StageRequest(
        **{
            **value,
            "settings": TrainSettings(**value["settings"]),
            "samples": tuple(value["samples"]),
        },
        lora=None if lora is None else LoraRequest(**lora),
        job=None if job is None else JobRequest(**job),
    )
