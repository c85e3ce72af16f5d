"""One operation of the document, as its table states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

Json = dict[str, Any]

BASE, CHAIN = "{base}", "{chain}"
"""In examples: the served name of the base, and the name of a chain of it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A route. ``answer`` is the schema of its JSON, or what else it sends, by media type.

    ``statuses`` are those of errors that not every route has. ``streams`` tells that ``stream:
    true`` gives server-sent events. ``form`` holds the parts of a multipart body, where it takes
    files. ``path`` and ``query`` are the schemas of parameters by name. ``raw`` is the media type
    of a body that is neither JSON nor a form.
    """

    method: Literal["get", "post", "put", "delete"]
    route: str
    summary: str
    tag: str
    answer: Json | str
    body: type[BaseModel] | None = None
    optional_body: bool = False
    example: Json | None = None
    status: int = 200
    statuses: tuple[int, ...] = ()
    streams: bool = False
    form: Json | None = None
    raw: str | None = None
    path: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    errors: str = "Error"


def obj(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    """An object with these fields, and possibly others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def list_of(items: Json, more: Mapping[str, Any] | None = None) -> Json:
    """OpenAI's list object."""
    data = {"type": "array", "items": items}
    return obj({"object": {"const": "list"}, "data": data, **(more or {})})


def page_of(name: str) -> Json:
    """A list object of a schema of ``server.api.openapi.answers``, and whether more follows."""
    return list_of(ref(name), {"has_more": FLAG})


def ref(name: str) -> Json:
    """A schema of ``server.api.openapi.answers``."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Json) -> Json:
    """``schema`` or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def told(schema: Json, description: str, example: Any = None) -> Json:
    """``schema`` with a description, and an example where there is one."""
    return {
        **schema,
        "description": description,
        **({} if example is None else {"example": example}),
    }


TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
NUMBER: Json = {"type": "number"}
FLAG: Json = {"type": "boolean"}
ANY: Json = {"type": "object"}
"""Fields that are described elsewhere."""
