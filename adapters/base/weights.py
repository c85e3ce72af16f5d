"""A model directory's safetensors files, checked before MLX reads them.

MLX's reader accepts overlapping, holed, duplicate and impossible tensors; the safetensors library
refuses all of them, so it looks first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapters.errors import BaseError


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor in a file. Its bytes are ``length`` at ``offset`` from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    length: int


def checked_tensors(directory: Path) -> tuple[Tensor, ...]:
    """Every tensor of the files that mlx-lm reads (``model*.safetensors``), sorted by name.

    Raises BaseError where there is none, where a file is malformed and where two files hold the
    same name.
    """
    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        raise BaseError(
            f"{directory} holds no model*.safetensors: give the directory of an MLX model, as "
            "mlx_lm.convert writes it."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        for tensor in _tensors(file):
            if tensor.name in tensors:
                raise BaseError(
                    f"the tensor {tensor.name!r} is both in {tensors[tensor.name].file} and in "
                    f"{file}: remove the file that does not belong to the model."
                )
            tensors[tensor.name] = tensor
    return tuple(tensors[name] for name in sorted(tensors))


def _tensors(file: Path) -> list[Tensor]:
    try:
        with safe_open(file, "np"):
            pass  # opening checks the whole header against the file's length
    except (SafetensorError, OSError) as error:
        raise BaseError(
            f"{file} is not a sound safetensors file ({error}): fetch or convert the model again."
        ) from error
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    start = 8 + length
    return [
        Tensor(
            name,
            entry["dtype"],
            tuple(entry["shape"]),
            file,
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    ]
