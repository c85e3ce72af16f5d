"""Jobs, events and checkpoints as OpenAI's reference has them."""

from __future__ import annotations

from collections.abc import Callable

from adapters.lineage import Stage, StageEvent, StageRequest
from adapters.states import StageState
from server.api.admin.wire import plain, stage_row
from server.api.fine_tuning.auto import told
from server.api.fine_tuning.names import checkpoint_id, event_id, job_id
from server.api.wire import Body

ORGANIZATION = "chainlora"
"""A constant: whoever may call this server may see everything."""

_STATUS = {
    StageState.VALIDATING: "validating_files",
    StageState.EVALUATING: "running",
    StageState.HELD: "succeeded",
}
_OURS = ("chain", "number", "revision", "revision_deleted_at", "unavailable", "parent", "lora")
_STATE_TEXTS = {
    "validating": "The files are being validated.",
    "queued": "The job is queued.",
    "running": "Training has started.",
    "paused": "The job is paused.",
    "evaluating": "Training has ended; the result is being evaluated.",
    "held": "The job has ended; its result is held back.",
    "succeeded": "The job has succeeded.",
    "cancelled": "The job was cancelled.",
}
_Text = Callable[[Body], str]
_TEXTS: dict[str, _Text] = {
    "step": lambda data: f"Step {data['step']}/{data['steps']}: training loss={data['loss']:.4f}",
    "validation": lambda data: f"Step {data['step']}: validation loss={data['loss']:.4f}",
    "sample": lambda data: f"Step {data['step']}: a sample was answered.",
    "checkpoint": lambda data: f"Step {data['step']}: the state is kept, to resume from.",
    "warning": lambda data: str(data["message"]),
}


def job_row(stage: Stage, base_name: str, now: float) -> Body:
    """The job object. What OpenAI has no field for is in ``chainlora``."""
    if stage.request is None:
        raise ValueError(f"{stage.id} was not trained; it is no job")
    request = stage.request
    row = stage_row(stage, base_name)
    hyperparameters = told(request.settings)
    running = stage.state.is_claimed and stage.progress.left_s is not None
    finished = stage.finished_at is not None
    return {
        "id": job_id(stage.id),
        "object": "fine_tuning.job",
        "created_at": row["created_at"],
        "finished_at": row["finished_at"],
        "model": _asked_model(stage, request, base_name),
        "fine_tuned_model": None if stage.revision is None else row["model"],
        "organization_id": ORGANIZATION,
        "status": _STATUS.get(stage.state, stage.state.value),
        "training_file": _training_file(request),
        "validation_file": _validation_file(request),
        "result_files": [f"file-results-{stage.id}"] if _is_done(stage) else [],
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": request.settings.seed,
        "trained_tokens": stage.metrics.get("trained_tokens") if finished else None,
        "estimated_finish": int(now + (stage.progress.left_s or 0)) if running else None,
        "error": _error(stage),
        "integrations": [],
        "metadata": None if request.job is None else plain(request.job.metadata),
        "chainlora": {
            "stage": stage.id,
            "state": stage.state.value,
            "model": row["model"],
            **{name: row[name] for name in _OURS},
            "settings": row["settings"],
            "progress": row["progress"],
            "metrics": row["metrics"],
        },
    }


def job_event_row(event: StageEvent) -> Body:
    """The event object; ``data`` is what the stage told."""
    data: Body = plain(event.data)
    metrics = event.kind in ("step", "validation")
    failed = event.kind == "state" and data["state"] == StageState.FAILED
    level = "error" if failed else "warn" if event.kind == "warning" else "info"
    loss = {"step": "train_loss", "validation": "valid_loss"}.get(event.kind)
    return {
        "id": event_id(event.id),
        "object": "fine_tuning.job.event",
        "created_at": int(event.at),
        "level": level,
        "message": _text(event.kind, data),
        "data": data if loss is None else {**data, loss: data["loss"]},
        "type": "metrics" if metrics else "message",
    }


def checkpoint_row(stage: Stage, job_stage: str, base_name: str) -> Body:
    """What the job of ``job_stage`` had learned, by the name that it is served under: at its end,
    or where ``stage`` is a fork of it, at the end of an epoch before."""
    is_end = stage.id == job_stage
    measured = stage.metrics if is_end else stage.record
    step = int(measured.get("steps" if is_end else "step", 0))
    losses = {
        "train_loss": measured.get("loss"),
        "valid_loss": measured.get("validation_loss"),
        "full_valid_loss": measured.get("validation_loss"),
    }
    return {
        "id": checkpoint_id(job_stage, step),
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(stage.finished_at or stage.created_at),
        "fine_tuned_model_checkpoint": f"{base_name}:{stage.chain}@{stage.number}",
        "fine_tuning_job_id": job_id(job_stage),
        "step_number": step,
        "metrics": {
            "step": step,
            **{name: plain(value) for name, value in losses.items() if value is not None},
        },
    }


def _asked_model(stage: Stage, request: StageRequest, base_name: str) -> str:
    """What was asked for; of a stage that was no job, what it went on from."""
    if request.job is not None:
        return request.job.model
    return f"{base_name}:{stage.chain}" if stage.number > 1 else base_name


def _training_file(request: StageRequest) -> str:
    return f"file-{request.dataset}" if request.job is None else request.job.training_file


def _validation_file(request: StageRequest) -> str | None:
    if request.job is not None:
        return request.job.validation_file
    return None if request.validation is None else f"file-{request.validation}"


def _is_done(stage: Stage) -> bool:
    return stage.state in (StageState.HELD, StageState.SUCCEEDED)


def _error(stage: Stage) -> Body | None:
    if stage.error is None:
        return None
    return {"code": stage.error.code, "message": stage.error.message, "param": None}


def _text(kind: str, data: Body) -> str:
    if kind == "state":
        if error := data.get("error"):
            return str(error["message"])
        return _STATE_TEXTS.get(data["state"], f"The job is {data['state']}.")
    return _TEXTS[kind](data) if kind in _TEXTS else f"{kind}: see data."
