"""The document that ``GET /openapi.json`` answers with, made once from the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema
from starlette.responses import Response

from server.api.openapi import answers, generating, managing, tuning
from server.api.openapi.operation import BASE, CHAIN, Json, Operation
from server.api.wire import encode

ROUTE = "/openapi.json"
OPERATIONS = (*generating.OPERATIONS, *tuning.OPERATIONS, *managing.OPERATIONS)
SCHEMAS = {**answers.SCHEMAS, **tuning.SCHEMAS}

_EVERY = (400, 404, 405, 408, 413, 421, 500, 503)
_WITH_BODY = (415,)
_REQUEST_REF = "#/components/schemas/{model}"
_EXAMPLE_CHAIN = "support"


class Document:
    """The description of the routes that ``routers`` have. ``base`` is the served name."""

    def __init__(self, routers: Sequence[APIRouter], *, base: str, version: str) -> None:
        there = set(paths_of(routers)) | {("get", ROUTE)}
        operations = [each for each in OPERATIONS if (each.method, each.route) in there]
        bodies, schemas = _requests(operations)
        paths: dict[str, Json] = {}
        for each in operations:
            paths.setdefault(each.route, {})[each.method] = _described(each, bodies)
        document = {
            "openapi": "3.1.0",
            "info": {"title": "chainlora", "version": version},
            "paths": paths,
            "components": {"schemas": {**SCHEMAS, **schemas}},
        }
        text = json.dumps(document)
        for mark, name in ((BASE, base), (CHAIN, _EXAMPLE_CHAIN)):
            text = text.replace(json.dumps(mark), json.dumps(name))
        self.content: Json = json.loads(text)

    def routes(self) -> APIRouter:
        """The route that answers with it."""
        router, body = APIRouter(), encode(self.content)

        @router.get(ROUTE, response_model=None)
        async def openapi() -> Response:
            return Response(body, media_type="application/json")

        return router


def paths_of(routers: Iterable[APIRouter]) -> Iterator[tuple[str, str]]:
    """Method and path of every route, as a document has them."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods or ():
                    yield method.lower(), route.path.replace(":path}", "}")
            elif (inner := getattr(route, "original_router", None)) is not None:
                yield from paths_of([inner])


class _Plain(GenerateJsonSchema):
    """Without defaults: an absent field is nearly always the same as null."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])


def _requests(operations: Sequence[Operation]) -> tuple[dict[type[BaseModel], str], Json]:
    """The bodies' names, and all schemas by names without the modules that they come from."""
    bodies = list(dict.fromkeys(each.body for each in operations if each.body is not None))
    names, made = models_json_schema(
        [(body, "validation") for body in bodies],
        ref_template=_REQUEST_REF,
        schema_generator=_Plain,
    )
    found: Json = made.get("$defs", {})
    text = json.dumps(
        [
            {_short(name): schema for name, schema in found.items()},
            [names[body, "validation"]["$ref"] for body in bodies],
        ]
    )
    # Rust's end of a text, which no other engine knows; theirs has the same meaning everywhere.
    text = text.replace('\\\\z"', '$"')
    for name in found:
        old, new = (_REQUEST_REF.format(model=each) for each in (name, _short(name)))
        text = text.replace(json.dumps(old), json.dumps(new))
    schemas, refs = json.loads(text)
    return dict(zip(bodies, refs, strict=True)), schemas


def _short(name: str) -> str:
    """``server__api__schema__chat__TextPart`` is ``ChatTextPart``."""
    *_, module, short = ("", *name.split("__"))
    if short == name:
        return f"{name}Body" if name in SCHEMAS else name
    return "".join(part.capitalize() for part in module.split("_")) + short


def _described(operation: Operation, bodies: Mapping[type[BaseModel], str]) -> Json:
    described: Json = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation),
    }
    parameters = [
        {"name": name, "in": place, "required": place == "path", **_parameter(schema)}
        for place, schemas in (("path", operation.path), ("query", operation.query))
        for name, schema in schemas.items()
    ]
    if parameters:
        described["parameters"] = parameters
    if content := _content(operation, bodies):
        described["requestBody"] = {"required": not operation.optional_body, "content": content}
    return described


def _parameter(schema: Json) -> Json:
    beside: Json = {key: schema[key] for key in ("description", "example") if key in schema}
    return {**beside, "schema": {key: schema[key] for key in schema if key not in beside}}


def _content(operation: Operation, bodies: Mapping[type[BaseModel], str]) -> Json:
    content: Json = {}
    if operation.body is not None:
        schema = {"$ref": bodies[operation.body]}
        example = {} if operation.example is None else {"example": operation.example}
        content["application/json"] = {"schema": schema, **example}
    elif operation.optional_body:
        content["application/json"] = {"schema": {"type": "object"}}
    if operation.form is not None:
        content["multipart/form-data"] = {"schema": operation.form}
    if operation.raw is not None:
        content[operation.raw] = {"schema": {"type": "string"}}
    return content


def _responses(operation: Operation) -> Json:
    answer = operation.answer
    content: Json = (
        {answer: {"schema": {"type": "string"}}}
        if isinstance(answer, str)
        else {"application/json": {"schema": answer}}
    )
    if operation.streams:
        content["text/event-stream"] = {"schema": {}}
    responses: Json = {str(operation.status): {"description": "As asked for", "content": content}}
    statuses = {*_EVERY, *operation.statuses, *(_WITH_BODY if operation.method != "get" else ())}
    error = {"schema": {"$ref": f"#/components/schemas/{operation.errors}"}}
    for status in sorted(statuses):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": error},
        }
    return responses


def _id(operation: Operation) -> str:
    words = re.findall(r"[a-z0-9]+", operation.route)
    return "_".join([operation.method, *(word for word in words if word != "v1")])
