"""The operations of OpenAI's files, fine-tuning jobs, and the deletion of models."""

from __future__ import annotations

from typing import Any

from server.api.fine_tuning.schema import JobBody
from server.api.openapi.operation import (
    BASE,
    COUNT,
    NUMBER,
    TEXT,
    Json,
    Operation,
    nullable,
    obj,
    page_of,
    ref,
    told,
)

_FILES, _JOBS = "/v1/files", "/v1/fine_tuning/jobs"
_FILE = {"file": told(TEXT, "The id of a file")}
_JOB = {"job": told(TEXT, "The id of a job")}
_PAGE: Json = {"after": TEXT, "limit": {"type": "integer", "minimum": 1}}
_CONTENT: Json = {"type": "string", "contentMediaType": "application/octet-stream"}
_WRITES = (409, 507)

SCHEMAS: Json = {
    "File": obj(
        {
            "id": TEXT,
            "object": {"const": "file"},
            "bytes": COUNT,
            "created_at": COUNT,
            "expires_at": nullable(COUNT),
            "filename": TEXT,
            "purpose": TEXT,
            "status": {"enum": ["processed", "error"]},
            "status_details": nullable(TEXT),
        }
    ),
    "Job": obj(
        {
            "id": TEXT,
            "object": {"const": "fine_tuning.job"},
            "created_at": COUNT,
            "finished_at": nullable(COUNT),
            "model": TEXT,
            "fine_tuned_model": nullable(TEXT),
            "status": TEXT,
            "training_file": TEXT,
            "validation_file": nullable(TEXT),
            "result_files": {"type": "array", "items": TEXT},
            "hyperparameters": {"type": "object"},
            "seed": COUNT,
            "trained_tokens": nullable(COUNT),
            "error": nullable({"type": "object"}),
            "chainlora": {"type": "object"},
        }
    ),
    "JobEvent": obj(
        {
            "id": TEXT,
            "object": {"const": "fine_tuning.job.event"},
            "created_at": COUNT,
            "level": {"enum": ["info", "warn", "error"]},
            "message": TEXT,
            "data": {"type": "object"},
            "type": {"enum": ["message", "metrics"]},
        }
    ),
    "JobCheckpoint": obj(
        {
            "id": TEXT,
            "object": {"const": "fine_tuning.job.checkpoint"},
            "created_at": COUNT,
            "fine_tuned_model_checkpoint": TEXT,
            "fine_tuning_job_id": TEXT,
            "step_number": COUNT,
            "metrics": {"type": "object", "additionalProperties": NUMBER},
        }
    ),
}


def _tuning(method: Any, route: str, summary: str, answer: Json | str, **more: Any) -> Operation:
    statuses = _WRITES if method != "get" else ()
    return Operation(method, route, summary, "OpenAI", answer, statuses=statuses, **more)


OPERATIONS: tuple[Operation, ...] = (
    _tuning(
        "post",
        _FILES,
        "Keep a file to train on",
        ref("File"),
        form={
            "type": "object",
            "properties": {"file": _CONTENT, "purpose": TEXT, "expires_after": {"type": "object"}},
            "required": ["file", "purpose"],
        },
    ),
    _tuning(
        "get", _FILES, "Files", page_of("File"), query={"purpose": TEXT, "order": TEXT, **_PAGE}
    ),
    _tuning("get", f"{_FILES}/{{file}}", "One file", ref("File"), path=_FILE),
    _tuning("delete", f"{_FILES}/{{file}}", "Delete a file", ref("Deleted"), path=_FILE),
    _tuning(
        "get",
        f"{_FILES}/{{file}}/content",
        "A file's bytes",
        "application/octet-stream",
        path=_FILE,
    ),
    _tuning("post", _JOBS, "Train a chain's next stage", ref("Job"), body=JobBody),
    _tuning("get", _JOBS, "Jobs, newest first", page_of("Job"), query=_PAGE),
    _tuning("get", f"{_JOBS}/{{job}}", "One job", ref("Job"), path=_JOB),
    *(
        _tuning("post", f"{_JOBS}/{{job}}/{verb}", summary, ref("Job"), path=_JOB)
        for verb, summary in (
            ("cancel", "End a job"),
            ("pause", "Stop a job with a checkpoint"),
            ("resume", "Queue a paused job again"),
        )
    ),
    _tuning(
        "get",
        f"{_JOBS}/{{job}}/events",
        "A job's events, newest first",
        page_of("JobEvent"),
        path=_JOB,
        query=_PAGE,
    ),
    _tuning(
        "get",
        f"{_JOBS}/{{job}}/checkpoints",
        "What a job has learned, by the name that it is served under",
        page_of("JobCheckpoint"),
        path=_JOB,
        query=_PAGE,
    ),
    _tuning(
        "delete",
        "/v1/models/{name}",
        "Delete an older revision of a chain by its pin",
        ref("Deleted"),
        path={"name": told(TEXT, "A pin: the base, heads and labels are kept", BASE)},
    ),
)
