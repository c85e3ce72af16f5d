"""The operations of ``/admin``."""

from __future__ import annotations

from typing import Any

from server.api.admin.schema import ForkBody, LabelBody, Nothing, PruneBody, RollbackBody, StageBody
from server.api.openapi.operation import (
    CHAIN,
    COUNT,
    NUMBER,
    TEXT,
    Json,
    Operation,
    page_of,
    ref,
    told,
)

_FILE: Json = {"type": "string", "contentMediaType": "application/octet-stream"}
_STAGE = {"stage": told(TEXT, "The id of a stage")}
_CHAIN = {"chain": told(TEXT, "The name of a chain", CHAIN)}
_PAGE: Json = {"after": TEXT, "limit": {"type": "integer", "minimum": 1, "maximum": 1000}}
_WRITES = (409, 507)
_ROWS: Json = {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}


def _admin(method: Any, route: str, summary: str, answer: Json | str, **more: Any) -> Operation:
    statuses = _WRITES if method != "get" else ()
    return Operation(method, route, summary, "Admin", answer, statuses=statuses, **more)


OPERATIONS: tuple[Operation, ...] = (
    _admin("get", "/admin/engine", "The engine's statistics", ref("Engine")),
    _admin(
        "post",
        "/admin/stages",
        "Train a chain's next stage",
        ref("Stage"),
        body=StageBody,
        example={
            "chain": CHAIN,
            "examples": [{"prompt": "What is a rudder?", "completion": "It steers."}],
            "iters": 1,
        },
        status=202,
    ),
    _admin(
        "get",
        "/admin/stages",
        "Stages, newest first",
        page_of("Stage"),
        query={"chain": TEXT, "status": TEXT, **_PAGE},
    ),
    _admin("get", "/admin/stages/{stage}", "One stage", ref("Stage"), path=_STAGE),
    *(
        _admin(
            "post",
            f"/admin/stages/{{stage}}/{verb}",
            summary,
            ref("Stage"),
            body=Nothing,
            optional_body=True,
            path=_STAGE,
        )
        for verb, summary in (
            ("cancel", "End a stage"),
            ("pause", "Stop a stage with a checkpoint"),
            ("resume", "Queue a paused stage again"),
        )
    ),
    _admin(
        "get",
        "/admin/stages/{stage}/events",
        "A stage's events, as they come or with stream=false as a list",
        page_of("Event"),
        path=_STAGE,
        query={**_PAGE, "after": COUNT, "stream": told({"enum": ["true", "false"]}, "", "false")},
        streams=True,
    ),
    _admin(
        "post",
        "/admin/datasets",
        "Keep training data",
        ref("Dataset"),
        form=_ROWS,
        raw="application/jsonl",
        query={"name": TEXT},
    ),
    _admin("get", "/admin/datasets", "Data sets, newest first", page_of("Dataset"), query=_PAGE),
    _admin(
        "get",
        "/admin/datasets/{dataset}",
        "One data set",
        ref("Dataset"),
        path={"dataset": told(TEXT, "The id of a data set")},
    ),
    _admin(
        "delete",
        "/admin/datasets/{dataset}",
        "Delete one that no unfinished stage needs",
        ref("Deleted"),
        path={"dataset": told(TEXT, "The id of a data set")},
    ),
    _admin("get", "/admin/chains", "Chains by name", page_of("Chain"), query=_PAGE),
    _admin(
        "post",
        "/admin/chains",
        "Open a chain file",
        ref("Chain"),
        form={**_ROWS, "properties": {"file": _FILE, "name": TEXT}},
    ),
    _admin("get", "/admin/chains/{chain}", "A chain and its stages", ref("Chain"), path=_CHAIN),
    _admin("delete", "/admin/chains/{chain}", "Delete a chain", ref("Deleted"), path=_CHAIN),
    _admin(
        "delete",
        "/admin/chains/{chain}/revisions/{revision}",
        "Delete a revision",
        ref("Deleted"),
        path={**_CHAIN, "revision": told(TEXT, "Stage number, id or label")},
    ),
    _admin(
        "post",
        "/admin/chains/{chain}/rollback",
        "Move the head",
        ref("Chain"),
        body=RollbackBody,
        example={"revision": 1},
        path=_CHAIN,
    ),
    _admin(
        "post",
        "/admin/chains/{chain}/fork",
        "Begin another chain with a revision of this one",
        ref("Chain"),
        body=ForkBody,
        example={"name": "forked"},
        path=_CHAIN,
    ),
    _admin(
        "post",
        "/admin/chains/{chain}/prune",
        "Delete old revisions",
        page_of("Deleted"),
        body=PruneBody,
        example={"keep_last": 2},
        path=_CHAIN,
    ),
    _admin(
        "put",
        "/admin/chains/{chain}/labels/{label}",
        "Label a revision",
        ref("Chain"),
        body=LabelBody,
        example={"revision": 1},
        path={**_CHAIN, "label": told(TEXT, "The label", "stable")},
    ),
    _admin(
        "delete",
        "/admin/chains/{chain}/labels/{label}",
        "Remove a label",
        ref("Chain"),
        path={**_CHAIN, "label": told(TEXT, "The label", "stable")},
    ),
    _admin(
        "get",
        "/admin/chains/{chain}/archive",
        "A chain as one file",
        "application/octet-stream",
        path=_CHAIN,
        query={"data": {"enum": ["true", "false"]}},
    ),
    _admin(
        "post",
        "/admin/chains/{chain}/import",
        "Begin a chain with an adapter from elsewhere",
        ref("Stage"),
        form={
            **_ROWS,
            "properties": {"file": _FILE, "config": _FILE, "scale": TEXT, "num_layers": TEXT},
        },
        path={"chain": told(TEXT, "The name of the new chain", "imported")},
    ),
    _admin(
        "get",
        "/admin/chains/{chain}/export",
        "A revision for elsewhere",
        "application/octet-stream",
        path=_CHAIN,
        query={
            "format": told({"enum": ["npz", "mlx-lm", "peft"]}, "Required", "npz"),
            "revision": TEXT,
            "fold_scale": NUMBER,
            "base_model": TEXT,
        },
    ),
)
