"""The tables of the documentation say what the code does."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from scripts.docs_hooks import errors_table, fields_table, on_page_markdown, settings_table
from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.embeddings import EmbeddingsRequest
from server.api.schema.fields import Schema
from server.api.schema.messages import MessagesRequest
from server.api.schema.read import read_request
from server.api.schema.responses import ResponsesRequest
from server.core.errors import TwoAdapters, UnsupportedField
from server.errors import TABLE
from server.settings import Settings
from server.settings_text import variable_of

BODIES: dict[type[Schema], dict[str, Any]] = {
    ChatRequest: {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    CompletionRequest: {"model": "m", "prompt": "x"},
    EmbeddingsRequest: {"model": "m", "input": "x"},
    ResponsesRequest: {"model": "m", "input": "x"},
    MessagesRequest: {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 1,
    },
}


def refused_fields() -> list[tuple[type[Schema], str]]:
    """What the last column of the table of fields claims."""
    rows = [line.split("|") for line in fields_table().splitlines()[2:]]
    return [
        (schema, name)
        for schema, row in zip(BODIES, rows, strict=True)
        for name in re.findall(r"`(\w+)`", row[3])
    ]


def test_each_setting_has_a_row_with_its_variable() -> None:
    """A setting that exists is a setting that is documented."""
    table = settings_table()
    assert [name for name in Settings.model_fields if f"`{variable_of(name)}`" not in table] == []


def test_each_code_on_the_wire_has_a_row() -> None:
    """Whoever sees a code can look it up."""
    table = errors_table()
    assert [wire.code for wire in TABLE.values() if f"| `{wire.code}` |" not in table] == []


@pytest.mark.parametrize(
    ("schema", "name"), refused_fields(), ids=lambda item: getattr(item, "__name__", item)
)
def test_what_the_table_calls_refused_is_refused(schema: type[Schema], name: str) -> None:
    """The table reads annotations; the server's own reader has the last word."""
    body = json.dumps({**BODIES[schema], name: {"any": "thing"}}).encode()
    with pytest.raises((UnsupportedField, TwoAdapters)) as refusal:
        read_request(schema, body, refuse_unknown=False)
    assert refusal.value.param == name


def test_marks_become_tables_and_other_text_stays() -> None:
    """Only the marks are touched."""
    page = on_page_markdown("a\n<!-- settings -->\n<!-- other -->\n")
    assert page == f"a\n{settings_table()}\n<!-- other -->\n"
