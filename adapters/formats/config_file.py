"""``adapter_config.json``, as mlx-lm and PEFT write it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from adapters.errors import AdapterFileError
from adapters.formats.files import read_bytes

_MOST_BYTES = 1 << 20

Config = TypeVar("Config", bound=BaseModel)


def read_config(file: Path, schema: type[Config], *, writer: str) -> Config:
    """The file's content by ``schema``; ``writer`` is who writes such files.

    Raises AdapterFileError with the first field at fault.
    """
    try:
        return schema.model_validate_json(read_bytes(file, most=_MOST_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise AdapterFileError(
            f"{file}: {where}: {first['msg']}. Give the adapter_config.json that {writer} wrote."
        ) from error
