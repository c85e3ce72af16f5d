"""Settings from flags and environment variables.

A setting is a flag of ``chainlora serve`` (``--queue-limit 64``) and an environment variable
(``CHAINLORA_QUEUE_LIMIT=64``); the flag wins. A name that no setting has is an error.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, get_args

from pydantic import ValidationError

from server.settings import Settings

_PREFIX = "CHAINLORA_"
_READ_ELSEWHERE = frozenset({"CHAINLORA_BLAS", "CHAINLORA_THREADS", "CHAINLORA_URL"})
"""Read while MLX's libraries are being opened, long before settings exist; and by clients."""


class SettingsError(ValueError):
    """The settings cannot be used; ``str()`` names the flag and the variable of each fault."""


def flag_of(field: str) -> str:
    """The flag that sets ``field``: ``--queue-limit``; ``--adapter`` for the repeatable one."""
    return "--adapter" if field == "adapters" else f"--{field.replace('_', '-')}"


def variable_of(field: str) -> str:
    """The environment variable that sets ``field``."""
    return _PREFIX + field.upper()


def from_environment_and_flags(environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """The settings that a process was started with; a flag wins over its variable.

    ``flags`` has field names as keys and values as text or already typed; a flag that was not given
    must be absent. ``adapters`` is a sequence of ``NAME=DIR``, ``allowed_hosts`` one of names.
    Raises SettingsError for a name that no setting has and for every value that does not fit.
    """
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX) or variable in _READ_ELSEWHERE:
            continue
        field = variable.removeprefix(_PREFIX).lower()
        if field not in Settings.model_fields or variable != variable_of(field):
            known = [*map(variable_of, Settings.model_fields), *_READ_ELSEWHERE]
            raise SettingsError(
                f"The environment variable {variable} sets nothing{_near(variable, known)}. "
                "Unset it or correct its name."
            )
        values[field] = _from_text(field, text)
    for field, value in flags.items():
        if field not in Settings.model_fields:
            near = _near(flag_of(field), [flag_of(name) for name in Settings.model_fields])
            raise SettingsError(f"{flag_of(field)} sets nothing{near}.")
        values[field] = _from_flag(field, value)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _from_text(field: str, text: str) -> object:
    if field == "adapters":
        return [_pair(item) for item in text.split(os.pathsep) if item]
    if field == "adapter_import_dirs":
        return [item for item in text.split(os.pathsep) if item]
    if field == "allowed_hosts":
        return [item.strip() for item in text.split(",") if item.strip()]
    return None if text == "auto" and _may_be_auto(field) else text


def _from_flag(field: str, value: object) -> object:
    if field == "adapters" and isinstance(value, list | tuple):
        return [_pair(item) if isinstance(item, str) else item for item in value]
    return _from_text(field, value) if isinstance(value, str) else value


def _pair(text: str) -> tuple[str, str]:
    name, equals, directory = text.partition("=")
    if not equals or not directory:
        raise SettingsError(
            f"{flag_of('adapters')} / {variable_of('adapters')}: {text!r} is not NAME=DIR, as in "
            "pirate=./adapters/pirate."
        )
    return name, directory


def _may_be_auto(field: str) -> bool:
    info = Settings.model_fields[field]
    return info.default is None and int in get_args(info.annotation)


def _near(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


def _explain(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False):
        field = str(fault["loc"][0])
        given = fault["input"]
        shown = str(given) if isinstance(given, str | int | float | PurePath) else repr(given)
        what = fault["msg"].removeprefix("Value error, ")
        said = "" if fault["type"] == "value_error" else f" (given: {shown[:80]})"
        faults.append(f"{flag_of(field)} / {variable_of(field)}: {what}{said}.")
    return "\n".join(faults)
