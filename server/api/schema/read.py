"""A request's body against its schema: the object, and the fields that nobody defines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from server.api.schema.chat import ChatRequest
from server.api.schema.check_chat import check_chat
from server.api.schema.completions import CompletionRequest
from server.api.schema.fields import UNSUPPORTED, GenerationRequest, Schema
from server.api.schema.formats import GuidedRequest, NestedSchemaFormat, ObjectFormat
from server.api.schema.variants import is_variant
from server.api.strict_json import parse_object
from server.core.errors import InvalidRequest, UnsupportedField

_OWN_WORDS = {
    "model_type": "must be an object",
    "extra_forbidden": "there is no such field; leave it out",
}
"""For the errors whose text speaks of Python."""
_MOST_NAMES = 16
_LONGEST_NAME = 64

Request = TypeVar("Request", bound=Schema)


def read_request(
    schema: type[Request], body: bytes, *, refuse_unknown: bool
) -> tuple[Request, tuple[str, ...]]:
    """The request, and the names of its fields that no reference and no extension defines.

    Raises UnsupportedField, TwoAdapters or InvalidRequest with the path of the first field at
    fault, as in ``messages[0].content``; the value itself is not repeated. With
    ``refuse_unknown`` an undefined field is at fault as well.
    """
    payload = parse_object(body)
    try:
        request = schema.model_validate(payload)
    except ValidationError as error:
        raise refusal(error) from None
    _check_together(request)
    unknown = tuple(_undefined(request, ""))
    if unknown and refuse_unknown:
        raise InvalidRequest(
            f"Nobody defines the field {unknown[0]!a}; leave it out, or start the server with "
            "unknown_fields = ignore.",
            param=unknown[0],
        )
    return request, unknown


def ignored_header(names: Sequence[str]) -> str:
    """``names`` as the value of ``x-chainlora-ignored``: visible ASCII, cut to a sane length."""
    shown = [quote(name[:_LONGEST_NAME], safe="[]._-") for name in names[:_MOST_NAMES]]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def _check_together(request: Schema) -> None:
    if not isinstance(request, GenerationRequest):
        return
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "stream_options has no meaning without stream: true.", param="stream_options"
        )
    if isinstance(request, GuidedRequest):
        _check_guided(request)
    if isinstance(request, CompletionRequest):
        _check_candidates(request)
    if isinstance(request, ChatRequest):
        check_chat(request)


def _check_guided(request: GuidedRequest) -> None:
    """One field at most may say what the text is to be."""
    asked = {
        "response_format": isinstance(request.response_format, ObjectFormat | NestedSchemaFormat),
        "guided_json": request.guided_json is not None,
        "guided_regex": request.guided_regex is not None,
        "guided_choice": request.guided_choice is not None,
        "guided_grammar": request.guided_grammar is not None,
    }
    found = [name for name, is_asked in asked.items() if is_asked]
    if len(found) > 1:
        raise InvalidRequest(
            f"{found[0]} and {found[1]} both say what the text is to be; give one of them.",
            param=found[1],
        )


def _check_candidates(request: CompletionRequest) -> None:
    if request.candidates < request.choices:
        raise InvalidRequest(
            f"best_of is {request.candidates}, fewer than the {request.choices} texts that n asks "
            "for; give at least as many.",
            param="best_of",
        )
    if request.candidates > request.choices and request.stream:
        raise InvalidRequest(
            "The best of several texts is known when all are complete; ask for best_of without "
            "stream.",
            param="best_of",
        )


def refusal(error: ValidationError) -> InvalidRequest:
    """The first fault of ``error`` as a client reads it, with its path and without its value."""
    fault = error.errors(include_url=False, include_input=False)[0]
    param = _path(fault["loc"])
    error_class = UnsupportedField if fault["type"] == UNSUPPORTED else InvalidRequest
    what = _OWN_WORDS.get(fault["type"], fault["msg"])
    return error_class(f"{param}: {what}.", param=param)


def _path(loc: Sequence[str | int]) -> str:
    path = ""
    for step in loc:
        if is_variant(step):
            continue
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step[:_LONGEST_NAME]}" if path else step[:_LONGEST_NAME]
    return path


def _undefined(value: BaseModel, path: str) -> Iterator[str]:
    for name in value.model_extra or {}:
        yield f"{path}{name}"
    for name in value.model_fields_set & type(value).model_fields.keys():
        child = getattr(value, name)
        if isinstance(child, Schema):
            yield from _undefined(child, f"{path}{name}.")
        elif isinstance(child, list):
            for index, item in enumerate(child):
                if isinstance(item, Schema):
                    yield from _undefined(item, f"{path}{name}[{index}].")
