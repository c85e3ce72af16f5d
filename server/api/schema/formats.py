"""What a text may be asked to be: ``response_format``, and the ``guided_*`` fields of vLLM."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from server.api.schema.fields import GenerationRequest, Schema, wrong
from server.api.schema.variants import by_type, known_type, variant

FormatName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\z")]


class PlainFormat(Schema):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Schema):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Schema):
    """``response_format.json_schema``; a text is held to it whatever ``strict`` says.

    Without a schema any JSON will do.
    """

    name: FormatName
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None


class NestedSchemaFormat(Schema):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    Annotated[PlainFormat, variant("text")]
    | Annotated[ObjectFormat, variant("json_object")]
    | Annotated[NestedSchemaFormat, variant("json_schema")],
    by_type(),
    BeforeValidator(known_type(["text", "json_object", "json_schema"], ["grammar", "python"])),
]


def _schema(value: object) -> object:
    """A schema, which vLLM's clients also send as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise wrong("must be a JSON schema, as an object or as its text") from None


class GuidedRequest(GenerationRequest):
    """A request whose text may be constrained."""

    response_format: ResponseFormat | None = None
    guided_json: (
        Annotated[
            dict[str, Any], BeforeValidator(_schema, json_schema_input_type=dict[str, Any] | str)
        ]
        | None
    ) = None
    guided_regex: Annotated[str, Field(min_length=1)] | None = None
    guided_choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    guided_grammar: Annotated[str, Field(min_length=1)] | None = None
