"""The body of ``POST /v1/embeddings``: the whole reference, and ``priority``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from server.api.schema.fields import Label, ModelField, NoAdapters, Priority, Schema, wrong
from server.api.schema.texts import Texts

MOST_INPUTS = 2048
"""The reference's own limit."""


def _few(value: object) -> object:
    """Checked before the texts are. A list of numbers is one text, however long it is."""
    many = isinstance(value, list) and len(value) > MOST_INPUTS and type(value[0]) is not int
    if many:
        raise wrong(f"must have at most {MOST_INPUTS} texts; send several requests")
    return value


class EmbeddingsRequest(Schema):
    """The whole body."""

    model: ModelField
    adapters: NoAdapters = None
    input: Annotated[Texts, BeforeValidator(_few, json_schema_input_type=Texts)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    user: Label | None = None
    priority: Priority | None = None
