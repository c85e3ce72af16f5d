"""Safetensors files, read by the ``safetensors`` library and never by MLX.

MLX's reader accepts overlapping, holed, duplicate and impossible tensors. The library refuses all
of them but one: of two entries with the same name it silently takes the last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, deserialize, serialize_file

from adapters.errors import AdapterFileError
from adapters.formats.arrays import FLOATS, HostArray
from adapters.formats.files import read_bytes
from adapters.formats.limits import MOST_TENSORS

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 16 << 20
_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_OTHERS = {
    b"PK\x03\x04": "a zip archive (npz or PyTorch)",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF model",
    b"\x80": "a Python pickle",
}


def read_tensors(file: Path, *, most: int) -> dict[str, HostArray]:
    """Every tensor of a file of at most ``most`` bytes, by name; values are not looked at.

    Raises AdapterFileError for a file that is not sound, and for types other than float32, float16
    and bfloat16.
    """
    raw = read_bytes(file, most=most)
    _check_length(file, raw)
    parse: Any = deserialize  # the library gives it no types
    try:
        entries = parse(raw)
    except SafetensorError as error:
        raise AdapterFileError(
            f"{file} is not a sound safetensors file ({error}): export the adapter again."
        ) from error
    if len(entries) > MOST_TENSORS:
        raise AdapterFileError(
            f"{file} has {len(entries)} tensors, at most {MOST_TENSORS} are read. Give an "
            "adapter's own file."
        )
    _refuse_duplicates(file, raw)
    del raw
    return {name: _tensor(file, name, entry) for name, entry in entries}


def read_metadata(file: Path) -> dict[str, str]:
    """The words beside the tensors of a file that ``read_tensors`` has found to be sound."""
    with file.open("rb") as stream:
        length = min(int.from_bytes(stream.read(_LENGTH_BYTES), "little"), _MOST_HEADER_BYTES)
        found = json.loads(stream.read(length)).get("__metadata__")
    return dict(found or {})


def write_tensors(
    file: Path, tensors: Mapping[str, HostArray], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a new file in the form that mlx-lm reads; not synced to the disk."""
    # The library is given addresses: the arrays must live until it returns.
    views = {name: np.frombuffer(array.data, np.uint8) for name, array in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=_NAMES[array.dtype],
            shape=array.shape,
            data_ptr=views[name].ctypes.data,
            data_len=len(array.data),
        )
        for name, array in tensors.items()
    }
    serialize_file(specs, file, {"format": "mlx", **(metadata or {})})


def _check_length(file: Path, raw: bytes) -> None:
    """Bound the header before anything parses it, and tell what a renamed file is."""
    header = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    if header <= min(_MOST_HEADER_BYTES, len(raw) - _LENGTH_BYTES):
        return
    kind = next((name for magic, name in _OTHERS.items() if raw.startswith(magic)), None)
    found = f"it claims a header of {header} bytes" if kind is None else f"it looks like {kind}"
    raise AdapterFileError(
        f"{file} is not a sound safetensors file ({found}, the file has {len(raw)} bytes): export "
        "the adapter again, with mlx_lm.lora or as safetensors."
    )


def _refuse_duplicates(file: Path, raw: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, times in Counter(n for n, _ in pairs).items() if times > 1)
            raise AdapterFileError(
                f"{file} is not a sound safetensors file ({twice!r} stands twice in its header): "
                "export the adapter again."
            )
        return found

    end = _LENGTH_BYTES + int.from_bytes(raw[:_LENGTH_BYTES], "little")
    json.loads(raw[_LENGTH_BYTES:end], object_pairs_hook=unique)


def _tensor(file: Path, name: str, entry: dict[str, Any]) -> HostArray:
    dtype = str(entry["dtype"])
    if dtype not in FLOATS:
        raise AdapterFileError(
            f"{file}: {name!r} is {dtype}; float32, float16 and bfloat16 are served. Save the "
            "adapter in one of them."
        )
    # Popped, so that each of the library's copies goes as soon as ours is made.
    return HostArray(dtype, tuple(entry["shape"]), bytes(entry.pop("data")))
