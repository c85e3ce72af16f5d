"""MkDocs hooks: tables of settings, errors and fields, read from the code so they cannot drift."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

if str(Path(__file__).resolve().parent.parent) not in sys.path:
    # The documentation builds without the project being installed.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.growth import DEFAULT_SHAPE
from adapters.lineage import TrainSettings
from server.api.admin.schema import LoraBody, StageBody
from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.embeddings import EmbeddingsRequest
from server.api.schema.fields import NoAdapters, Schema, Unsupported
from server.api.schema.messages import MessagesRequest
from server.api.schema.responses import ResponsesRequest
from server.errors import TABLE
from server.settings import Settings
from server.settings_text import flag_of, variable_of
from server.stage_cli import LORA, SETTINGS

_STAGE_FIELDS = {
    "chain": "the chain to begin or to continue",
    "dataset": "id of a data set; this or `examples`",
    "examples": "rows, as in a data set",
    "validation_dataset": "id of a data set to measure on",
    "parent": "revision that must still be the head; without it, whatever the head is",
    "samples": "prompts to answer on the way",
    "lora.keys": "paths inside a block, as `self_attn.q_proj`; without it, every linear layer",
    "warmup_steps": "steps until the learning rate is at its highest; without it, a twentieth",
    "eval_every": "steps between validations; without it, at the start and the end",
    "sample_every": "steps between sample answers; without it, at the end",
}
"""What has no flag of ``chainlora stage add``, or needs more words in a table."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks on a page by the tables of this module."""
    tables = {
        "settings": settings_table,
        "errors": errors_table,
        "fields": fields_table,
        "stage-fields": stage_fields_table,
    }
    for mark, table in tables.items():
        place = f"<!-- {mark} -->"
        if place in markdown:
            markdown = markdown.replace(place, table())
    return markdown


def settings_table() -> str:
    """Flag and variable, default, meaning: one row for each setting."""
    rows = [
        f"| {_flags(name)}<br>`{variable_of(name)}` | {_default(name)} | {_meaning(name)} |"
        for name in Settings.model_fields
    ]
    return "\n".join(["| setting | default | what it does |", "| --- | --- | --- |", *rows])


def errors_table() -> str:
    """Code, status and meaning: one row for each class of error that reaches a client."""
    rows = []
    for qualified, wire in TABLE.items():
        module, _, name = qualified.rpartition(".")
        error = getattr(importlib.import_module(module), name)
        first = (inspect.getdoc(error) or "").partition("\n\n")[0].partition("; ``str()``")[0]
        meaning = " ".join(first.split())
        again = f"; `Retry-After: {wire.retry_after_s}`" if wire.retry_after_s else ""
        rows.append(f"| `{wire.code}` | {wire.status}{again} | {_cell(meaning)} |")
    return "\n".join(["| code | status | meaning |", "| --- | --- | --- |", *sorted(set(rows))])


def fields_table() -> str:
    """Which fields each generating route takes, and which it refuses by name."""
    rows = []
    refused = (Unsupported.__metadata__[0], NoAdapters.__metadata__[0])
    schemas: dict[str, type[Schema]] = {
        "chat/completions": ChatRequest,
        "completions": CompletionRequest,
        "embeddings": EmbeddingsRequest,
        "responses": ResponsesRequest,
        "messages": MessagesRequest,
    }
    for route, schema in schemas.items():
        columns: dict[bool, list[str]] = {False: [], True: []}
        for name, info in schema.model_fields.items():
            columns[any(item in refused for item in info.metadata)].append(f"`{name}`")
        rows.append(f"| `/v1/{route}` | {', '.join(columns[False])} | {', '.join(columns[True])} |")
    return "\n".join(["| route | takes | refuses by name |", "| --- | --- | --- |", *rows])


def stage_fields_table() -> str:
    """What a stage takes, with its default; the LoRA shape's fields below it."""
    defaults = {
        **{f"lora.{name}": value for name, value in dataclasses.asdict(DEFAULT_SHAPE).items()},
        **{field.name: field.default for field in dataclasses.fields(TrainSettings)},
        "epochs": 1,
        "priority": 0,
    }
    names = [
        *(name for name, info in StageBody.model_fields.items() if _is_taken(info)),
        *(f"lora.{name}" for name in LoraBody.model_fields),
    ]
    meanings = {
        **{name: text for name, (_, text) in SETTINGS.items()},
        **{f"lora.{name}": text for name, (_, text) in LORA.items()},
        **_STAGE_FIELDS,
    }
    rows = [
        f"| `{name}` | {_shown(defaults.get(name))} | {_cell(meanings[name])} |"
        for name in names
        if name != "lora"
    ]
    return "\n".join(["| field | default | what it is |", "| --- | --- | --- |", *rows])


def _is_taken(info: FieldInfo) -> bool:
    """Whether the field does something: it is not among those that are refused by name."""
    return Unsupported.__metadata__[0] not in info.metadata and info.annotation is not Any


def _shown(value: object) -> str:
    return "" if value is None else f"`{value}`"


def _flags(name: str) -> str:
    flag = flag_of(name)
    switch = Settings.model_fields[name].annotation is bool
    return f"`{flag}`, `--no-{flag[2:]}`" if switch else f"`{flag}`"


def _default(name: str) -> str:
    info = Settings.model_fields[name]
    if info.default is None:
        return "auto" if int in get_args(info.annotation) else "unset"
    if isinstance(info.default, bool):
        return "on" if info.default else "off"
    return "none" if info.default == () else f"`{info.default}`"


def _meaning(name: str) -> str:
    info = Settings.model_fields[name]
    if not info.description:
        raise ValueError(
            f"the setting {name} has no description: give it one in server/settings.py"
        )
    choices = [choice for choice in get_args(info.annotation) if isinstance(choice, str)]
    listed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return _cell(info.description) + listed


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")
