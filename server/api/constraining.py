"""The fields of a request that constrain its text, as the engine's constraint."""

from __future__ import annotations

from server.api.schema.formats import GuidedRequest, NestedSchemaFormat, ObjectFormat
from server.core.constraints import choice, json_object, json_schema
from server.core.messages import Constraint


def constraint_of(request: GuidedRequest) -> Constraint | None:
    """What ``request`` asks its text to be; None for any text. At most one field says so."""
    form = request.response_format
    if isinstance(form, ObjectFormat):
        return json_object()
    if isinstance(form, NestedSchemaFormat):
        definition = form.json_schema.definition or {}
        return json_schema(definition, field="response_format.json_schema.schema")
    if request.guided_json is not None:
        return json_schema(request.guided_json, field="guided_json")
    if request.guided_regex is not None:
        return Constraint("regex", request.guided_regex, field="guided_regex")
    if request.guided_choice is not None:
        return choice(request.guided_choice)
    if request.guided_grammar is not None:
        return Constraint("lark", request.guided_grammar, field="guided_grammar")
    return None
