"""Ids of jobs, events and checkpoints: a stage's own, in OpenAI's form, both ways."""

from __future__ import annotations

import re

from adapters.errors import StageNotFound
from server.core.errors import InvalidRequest

_JOB, _EVENT, _CHECKPOINT = "ftjob-", "ftevent-", "ftckpt_"
_JOB_ID = re.compile(r"ftjob-([A-Za-z0-9][A-Za-z0-9._:-]{0,127})")
_EVENT_ID = re.compile(r"ftevent-([0-9]{1,18})")


def job_id(stage_id: str) -> str:
    """A stage's id as a job."""
    return f"{_JOB}{stage_id}"


def stage_of_job(text: str, *, param: str = "fine_tuning_job_id") -> str:
    """The id of a job's stage; raises StageNotFound for what is no job's id."""
    found = _JOB_ID.fullmatch(text)
    if found is None:
        raise StageNotFound(f"There is no fine-tuning job {text[:64]!a}.", param=param)
    return found[1]


def event_id(number: int) -> str:
    """An event's id."""
    return f"{_EVENT}{number}"


def number_of_event(text: str) -> int:
    """An event's number; raises InvalidRequest for what is no event's id."""
    found = _EVENT_ID.fullmatch(text)
    if found is None:
        raise InvalidRequest("after: must be the id of an event.", param="after")
    return int(found[1])


def checkpoint_id(job_stage: str, step: int) -> str:
    """The id of what the job of a stage had learned after ``step`` steps."""
    return f"{_CHECKPOINT}{job_stage}-{step}"
