"""One text or several, as words or as token ids: what completions and embeddings take."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from server.api.schema.fields import wrong

Text = str | tuple[int, ...]
"""A text, or token ids."""

_KINDS = "must be a string, a list of strings, a list of token ids or a list of such lists"


def _texts(value: object) -> object:
    """Every kind of the field as a tuple of texts."""
    if isinstance(value, str):
        return (_text(value),)
    if not isinstance(value, list):
        raise wrong(_KINDS)
    if not value:
        raise wrong("must not be empty")
    if all(type(item) is int for item in value):
        return (tuple(value),)
    if all(isinstance(item, str) for item in value) or all(
        isinstance(item, list) for item in value
    ):
        return tuple(_text(item) for item in value)
    raise wrong(_KINDS)


def _text(value: str | list[object]) -> object:
    if not value:
        raise wrong("must not be empty")
    if isinstance(value, str):
        return value
    if not all(type(item) is int for item in value):
        raise wrong(_KINDS)
    return tuple(value)


_Words = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[int], Field(min_length=1)]
Texts = Annotated[
    tuple[Text, ...],
    BeforeValidator(
        _texts,
        json_schema_input_type=_Words
        | Annotated[list[_Words], Field(min_length=1)]
        | _Ids
        | Annotated[list[_Ids], Field(min_length=1)],
    ),
]
