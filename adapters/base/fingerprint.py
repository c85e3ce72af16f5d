"""What identifies a base: the content of its files, not where or how they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.base.weights import Tensor, checked_tensors
from adapters.errors import BaseError

_CHUNK_BYTES = 1 << 20
# Written into every digest, so that a later definition cannot be mistaken for this one.
_DEFINITION = b"chainlora base 1"


def fingerprint(path: Path) -> str:
    """SHA-256, in hex, of a model directory's tensors, quantization, tokenizer and chat template.

    Tensors count by name, type, shape and bytes. The same on any machine, however the tensors are
    split over files and whatever the order and spacing of the JSON. Reads every byte of the model
    once. Raises BaseError where a file is missing or malformed.
    """
    digest = hashlib.sha256(_DEFINITION)
    try:
        for tensor in checked_tensors(path):
            digest.update(_framed(_canonical([tensor.name, tensor.dtype, tensor.shape])))
            digest.update(tensor.length.to_bytes(8, "little"))
            for chunk in _chunks(tensor):
                digest.update(chunk)
        config = _read_json(path / "config.json")
        quantization = config.get("quantization") or config.get("quantization_config")
        for part in (_canonical(quantization), _tokenizer(path), _chat_template(path)):
            digest.update(_framed(part))
    except (OSError, ValueError) as error:
        raise BaseError(
            f"{path} cannot be identified ({error}): fetch or convert the model again."
        ) from error
    return digest.hexdigest()


def _tokenizer(path: Path) -> bytes:
    """The vocabulary: tokenizer.json, or the sentencepiece file of models without one."""
    if (path / "tokenizer.json").is_file():
        return _canonical(_read_json(path / "tokenizer.json"))
    model = path / "tokenizer.model"
    return model.read_bytes() if model.is_file() else b""


def _chat_template(path: Path) -> bytes:
    """The template in use: its own file wins over tokenizer_config.json, as in transformers."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return _canonical(file.read_text(encoding="utf-8"))
    config = path / "tokenizer_config.json"
    return _canonical(_read_json(config).get("chat_template") if config.is_file() else None)


def _chunks(tensor: Tensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.offset)
        left = tensor.length
        while left:
            chunk = stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise OSError(f"{tensor.file} became shorter while it was read")
            left -= len(chunk)
            yield chunk


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise BaseError(f"{file} is not JSON ({error}): fetch the model again.") from error
    if not isinstance(content, dict):
        raise BaseError(f"{file} is not a JSON object: fetch the model again.")
    return content


def _canonical(value: Any) -> bytes:
    """JSON without a choice of order, spacing or escapes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _framed(part: bytes) -> bytes:
    """A part behind its length, so that no two lists of parts read alike."""
    return len(part).to_bytes(8, "little") + part
