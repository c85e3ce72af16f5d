"""The objects that ``/admin`` answers with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters.lineage import Chain, Dataset, LoraRequest, Progress, Stage, StageEvent
from adapters.shape import LoraShape
from server.api.wire import Body


def stage_row(stage: Stage, base_name: str) -> Body:
    """The stage object. ``model`` names its revision, also before and after there is one."""
    request = stage.request
    return {
        "id": stage.id,
        "object": "stage",
        "chain": stage.chain,
        "number": stage.number,
        "status": stage.state.value,
        "model": f"{base_name}:{stage.chain}@{stage.number}",
        "revision": stage.revision,
        "revision_deleted_at": _seconds(stage.revision_deleted_at),
        "unavailable": stage.unavailable,
        "parent": stage.parent,
        "origin": stage.origin.value,
        "dataset": None if request is None else request.dataset,
        "validation_dataset": None if request is None else request.validation,
        "lora": _lora(stage.shape if request is None else stage.shape or request.lora),
        "settings": None if request is None else plain(dataclasses.asdict(request.settings)),
        "samples": [] if request is None else list(request.samples),
        "priority": 0 if request is None else request.priority,
        "progress": _progress(stage.progress),
        "metrics": plain(stage.metrics),
        "record": plain(stage.record),
        "error": None
        if stage.error is None
        else {"code": stage.error.code, "message": stage.error.message},
        "created_at": int(stage.created_at),
        "started_at": _seconds(stage.started_at),
        "finished_at": _seconds(stage.finished_at),
    }


def event_row(event: StageEvent) -> Body:
    """The event object; ``data`` is what its kind has."""
    return {
        "id": event.id,
        "object": "stage.event",
        "stage": event.stage,
        "created_at": int(event.at),
        "kind": event.kind,
        "data": plain(event.data),
    }


def chain_row(chain: Chain, base_name: str) -> Body:
    """The chain object. ``head`` is a stage number, ``labels`` maps names to such numbers."""
    return {
        "id": chain.name,
        "object": "chain",
        "model": f"{base_name}:{chain.name}",
        "base": chain.base,
        "head": chain.head,
        "head_revision": chain.head_revision,
        "unavailable": chain.unavailable,
        "labels": dict(chain.labels),
        "created_at": int(chain.created_at),
    }


def dataset_row(dataset: Dataset) -> Body:
    """The data set object; ``id`` is the SHA-256 of its bytes."""
    return {
        "id": dataset.id,
        "object": "dataset",
        "name": dataset.name,
        "bytes": dataset.nbytes,
        "rows": dataset.rows,
        "created_at": int(dataset.created_at),
    }


def deleted_row(kind: str, name: str | None) -> Body:
    """What is left of what was deleted."""
    return {"id": name, "object": kind, "deleted": True}


def list_of(rows: Iterable[Body], *, has_more: bool = False) -> Body:
    """The list object."""
    return {"object": "list", "data": list(rows), "has_more": has_more}


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: what is no finite number is null, a tuple is a list."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(child) for child in value]
    return value


def _progress(progress: Progress) -> Body:
    row: Body = plain(dataclasses.asdict(progress))
    return row


def _lora(shape: LoraShape | LoraRequest | None) -> Body | None:
    return None if shape is None else plain(dataclasses.asdict(shape))


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)
