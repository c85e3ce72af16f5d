"""What is asked: texts of common words, and the messages made of them. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Talk = Literal["apart", "turns", "echo"]
"""``apart``: requests have nothing in common. ``turns``: the requests of a stream are the turns of
one chat, each with all that was said before. ``echo``: the answer is to repeat the prompt."""

Message = dict[str, str]

PEOPLE: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "people",
        "schema": {
            "type": "array",
            "minItems": 1000,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 20, "maxLength": 60},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                },
                "required": ["name", "age"],
                "additionalProperties": False,
            },
        },
    },
}
"""A ``response_format`` of free and of forced tokens that ends behind every limit of a load."""

# fmt: off
_WORDS = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "government",
    "number", "night", "point", "home", "water", "room", "mother", "area", "money", "story",
    "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue",
    "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "community", "name", "president", "team",
    "minute", "idea", "kid", "body", "information", "back",
]
# fmt: on


def prompt(seed: str, words: int) -> str:
    """A text of common words that no other seed shares, from its first word on."""
    draw = random.Random(seed)
    return " ".join([*draw.sample(_WORDS, 6), *draw.choices(_WORDS, k=max(words - 6, 0))])


def question(talk: Talk, seed: str, words: int) -> str:
    """What a user says next, about ``words`` words long."""
    text = prompt(seed, words)
    return f"Repeat this text, word for word:\n\n{text}" if talk == "echo" else text


def messages(system: str, said: Sequence[tuple[str, str]], asked: str) -> list[Message]:
    """A chat: a system message unless it is empty, the turns so far, and what is asked now."""
    rows: list[Message] = [{"role": "system", "content": system}] if system else []
    for user, assistant in said:
        rows += [
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
        ]
    return [*rows, {"role": "user", "content": asked}]
