"""The schemas of what the routes answer."""

from __future__ import annotations

from server.api.openapi.operation import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    Json,
    nullable,
    obj,
    ref,
)

_TIME = {**COUNT, "description": "Unix seconds"}
_USAGE = obj(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
    {"prompt_tokens_details": ANY, "completion_tokens_details": ANY},
)
_HEAD = {"id": TEXT, "created": _TIME, "model": TEXT, "system_fingerprint": TEXT}
_LISTED = {"type": "array", "items": ANY}


def _object(name: str) -> Json:
    return {"const": name}


SCHEMAS: dict[str, Json] = {
    "Error": obj(
        {
            "error": obj(
                {"message": TEXT, "type": TEXT, "param": nullable(TEXT), "code": TEXT},
                {"lines": _LISTED},
            )
        }
    ),
    "AnthropicError": obj(
        {
            "type": {"const": "error"},
            "error": obj({"type": TEXT, "message": TEXT}),
            "request_id": TEXT,
        }
    ),
    "Model": obj(
        {
            "id": TEXT,
            "object": _object("model"),
            "created": _TIME,
            "owned_by": TEXT,
            "root": nullable(TEXT),
            "parent": nullable(TEXT),
        }
    ),
    "ChatCompletion": obj(
        {
            **_HEAD,
            "object": _object("chat.completion"),
            "choices": {
                "type": "array",
                "items": obj(
                    {
                        "index": COUNT,
                        "message": obj({"role": TEXT, "content": nullable(TEXT)}),
                        "logprobs": nullable(ANY),
                        "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
                    }
                ),
            },
            "usage": _USAGE,
        }
    ),
    "Completion": obj(
        {
            **_HEAD,
            "object": _object("text_completion"),
            "choices": {
                "type": "array",
                "items": obj(
                    {
                        "index": COUNT,
                        "text": TEXT,
                        "logprobs": nullable(ANY),
                        "finish_reason": {"enum": ["stop", "length"]},
                    }
                ),
            },
            "usage": _USAGE,
        }
    ),
    "Embedding": obj(
        {
            "object": _object("embedding"),
            "index": COUNT,
            "embedding": {"anyOf": [{"type": "array", "items": NUMBER}, TEXT]},
        }
    ),
    "Response": obj(
        {
            "id": TEXT,
            "object": _object("response"),
            "created_at": _TIME,
            "status": {
                "enum": ["completed", "incomplete", "failed", "in_progress", "cancelled", "queued"]
            },
            "model": TEXT,
            "output": _LISTED,
            "usage": nullable(
                obj({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT})
            ),
            "error": nullable(ANY),
        }
    ),
    "Message": obj(
        {
            "id": TEXT,
            "type": _object("message"),
            "role": {"const": "assistant"},
            "model": TEXT,
            "content": _LISTED,
            "stop_reason": nullable(TEXT),
            "stop_sequence": nullable(TEXT),
            "usage": obj({"input_tokens": COUNT, "output_tokens": COUNT}),
        }
    ),
    "Stage": obj(
        {
            "id": TEXT,
            "object": _object("stage"),
            "chain": TEXT,
            "number": COUNT,
            "status": TEXT,
            "model": TEXT,
            "revision": nullable(TEXT),
            "parent": nullable(TEXT),
            "origin": TEXT,
            "progress": ANY,
            "metrics": ANY,
            "record": ANY,
            "error": nullable(obj({"code": TEXT, "message": TEXT})),
            "created_at": _TIME,
            "started_at": nullable(_TIME),
            "finished_at": nullable(_TIME),
        }
    ),
    "Event": obj(
        {
            "id": COUNT,
            "object": _object("stage.event"),
            "stage": TEXT,
            "created_at": _TIME,
            "kind": TEXT,
            "data": ANY,
        }
    ),
    "Chain": obj(
        {
            "id": TEXT,
            "object": _object("chain"),
            "model": TEXT,
            "base": TEXT,
            "head": nullable(COUNT),
            "head_revision": nullable(TEXT),
            "labels": {"type": "object", "additionalProperties": COUNT},
            "created_at": _TIME,
        },
        {"stages": {"type": "array", "items": ref("Stage")}},
    ),
    "Dataset": obj(
        {
            "id": TEXT,
            "object": _object("dataset"),
            "name": nullable(TEXT),
            "bytes": COUNT,
            "rows": COUNT,
            "created_at": _TIME,
        }
    ),
    "Deleted": obj({"id": nullable(TEXT), "object": TEXT, "deleted": FLAG}),
    "Engine": obj({"object": _object("engine"), "stats": ANY, "facts": ANY}),
}
