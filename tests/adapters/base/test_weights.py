"""Weight files are checked by the safetensors library before MLX reads a byte of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from adapters.base.weights import checked_tensors
from adapters.errors import BaseError


def write(file: Path, header: str | dict[str, Any], data: bytes = b"") -> Path:
    """A safetensors file with any header at all."""
    text = header if isinstance(header, str) else json.dumps(header)
    file.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data)
    return file


def tensor(begin: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, Any]:
    """A header entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_of_all_shards_are_listed_by_name(tmp_path: Path) -> None:
    """Names, types, shapes and where the bytes lie."""
    write(tmp_path / "model-2.safetensors", {"a": tensor(0, 2, [2])}, b"xy")
    header = {"__metadata__": {"format": "mlx"}, "b": tensor(0, 4, [2, 1], "F16")}
    file = write(tmp_path / "model-1.safetensors", header, b"abcd")
    first, second = checked_tensors(tmp_path)
    assert (first.name, first.dtype, first.shape, first.length) == ("a", "U8", (2,), 2)
    assert (second.name, second.dtype, second.shape) == ("b", "F16", (2, 1))
    assert file.read_bytes()[second.offset : second.offset + second.length] == b"abcd"


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": tensor(0, 2, [2]), "b": tensor(1, 3, [2])}, b"xyz"),
        ({"a": tensor(0, 1, [1]), "b": tensor(2, 3, [1])}, b"xyz"),
        ({"a": tensor(0, 8_000_000_000, [8_000_000_000])}, b"xyz"),
        ({"a": tensor(0, 3, [2])}, b"xyz"),
        ({"a": tensor(0, 3, [3])}, b"xyz and more"),
        ({"a": tensor(0, 3, [3], "F17")}, b"xyz"),
        ('{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + "}", b"x"),
        ("not json", b""),
    ],
    ids=["overlap", "hole", "beyond-end", "shape", "rest", "type", "duplicate", "no-json"],
)
def test_a_malformed_file_is_refused_by_name(
    header: str | dict[str, Any], data: bytes, tmp_path: Path
) -> None:
    """MLX would read each of these without a word."""
    write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(BaseError, match=r"model\.safetensors is not a sound safetensors file"):
        checked_tensors(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    """Which one MLX would keep depends on the order of a directory listing."""
    for name in ("model-1.safetensors", "model-2.safetensors"):
        write(tmp_path / name, {"a": tensor(0, 1, [1])}, b"x")
    with pytest.raises(BaseError, match=r"'a' is both in .*model-1.*and in .*model-2"):
        checked_tensors(tmp_path)


def test_a_directory_without_weights_is_refused_with_the_cure(tmp_path: Path) -> None:
    """The commonest mistake is the wrong directory."""
    write(tmp_path / "adapters.safetensors", {"a": tensor(0, 1, [1])}, b"x")
    with pytest.raises(BaseError, match=r"no model\*\.safetensors: give the directory"):
        checked_tensors(tmp_path)
