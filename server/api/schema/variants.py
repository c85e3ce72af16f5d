"""A field that takes objects of several kinds, told apart by their ``type``.

An error's path names the field and what is wrong in it, not the kind: ``input[0].text``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pydantic import Discriminator, Tag

from server.api.schema.fields import unsupported, wrong


def variant(kind: str) -> Tag:
    """Marks the schema for one kind."""
    return Tag(f"<{kind}>")


def is_variant(step: object) -> bool:
    """Whether a step of an error's path is such a mark."""
    return isinstance(step, str) and step.startswith("<") and step.endswith(">")


def by_type(default: str = "") -> Discriminator:
    """Chooses the schema by ``type``, ``default`` where there is none."""

    def choose(value: object) -> str:
        return f"<{kind_of(value, default)}>"

    return Discriminator(choose)


def known_type(
    taken: Collection[str], refused: Collection[str], default: str = ""
) -> Callable[[object], object]:
    """A check that comes before ``by_type``: ``refused`` is what the reference has beside
    ``taken``, and is refused by its name.
    """

    def check(value: object) -> object:
        kind = kind_of(value, default)
        if kind in refused:
            raise unsupported(f"this server does not support the type '{kind}'")
        if kind not in taken:
            raise wrong(f"must be an object whose type is {' or '.join(taken)}")
        return value

    return check


def kind_of(value: object, default: str = "") -> str:
    """The ``type`` of an object."""
    kind = value.get("type", default) if isinstance(value, dict) else ""
    return kind if isinstance(kind, str) else ""
