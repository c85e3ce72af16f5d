"""A sound adapter directory to be spoiled, and the proof that it is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import mlx.core as mx
import pytest

from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import CONFIG, WEIGHTS, read_adapter

Header = dict[str, dict[str, Any]]

A, B = "model.layers.0.mlp.up_proj.lora_a", "model.layers.0.mlp.up_proj.lora_b"
SIZE = 32


class Victim:
    """An adapter directory of one module: A is (4, 2) and B is (2, 4), float32."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.weights = directory / WEIGHTS
        self.config = directory / CONFIG
        self.settings: dict[str, Any] = {
            "fine_tune_type": "lora",
            "num_layers": 1,
            "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["mlp.up_proj"]},
        }
        self.config.write_text(json.dumps(self.settings))
        self.write(self.header(), bytes(2 * SIZE))

    @staticmethod
    def header() -> Header:
        """A sound header, to be changed."""
        return {
            A: {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, SIZE]},
            B: {"dtype": "F32", "shape": [2, 4], "data_offsets": [SIZE, 2 * SIZE]},
        }

    def write(self, header: Header | bytes, data: bytes) -> None:
        """Write the weights from a header and the bytes after it."""
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + data)

    def read(self) -> None:
        """Read the adapter as it lies there."""
        read_adapter(self.directory)

    def refusal(self) -> str:
        """Why it is refused; the message names the file."""
        with pytest.raises(AdapterFileError) as caught:
            self.read()
        assert str(self.directory) in str(caught.value)
        return str(caught.value)


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Victim:
    """A sound directory; MLX can neither open a file nor make an array while it is read."""

    def touched(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("MLX has seen the file")

    for name in ("load", "array"):
        monkeypatch.setattr(mx, name, touched)
    return Victim(tmp_path)


@pytest.fixture
def resident_bytes() -> Callable[[], int]:
    """The most memory that this process has had, in bytes."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return lambda: unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
