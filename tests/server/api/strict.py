"""What the official SDKs' own types say of our JSON: no field missing, none unknown."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter


def strictly(kind: Any, data: object) -> Any:
    """``data`` as the type ``kind`` of an SDK; AssertionError where it has a field too many.

    The SDKs themselves build objects without checking, and keep what they do not know.
    """
    value = _adapter(kind).validate_python(data)
    unknown = list(_unknown(value, ""))
    assert not unknown, f"the SDK does not know {unknown}"
    return value


def named_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream in which each is named by its ``type``; comments are left out."""
    events = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.splitlines() if not line.startswith(":")]
        if not lines:
            continue
        name, data = lines
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


_adapter = functools.cache(TypeAdapter)


def _unknown(value: object, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from (f"{path}.{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, f"{path}[{index}]")
