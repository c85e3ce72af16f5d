"""Checks that the readers of all adapter formats share: each works on tensors, not on names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray

Pair = tuple[HostArray, HostArray]
"""A (in, rank) and B (rank, out) of one module."""

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


def is_module_path(text: str) -> bool:
    """Whether ``text`` can be the path of a module, as ``model.layers.0.mlp.up_proj``."""
    return _MODULE.fullmatch(text) is not None


def check_matrix(file: Path, name: str, array: HostArray) -> None:
    """Raise AdapterFileError unless ``array`` is a matrix of finite values."""
    if len(array.shape) == 3:
        raise AdapterFileError(
            f"{file}: {name} has the shape {array.shape}: an adapter on the experts of a mixture. "
            "Those are not served; train with keys that leave the experts out."
        )
    if len(array.shape) != 2 or min(array.shape) < 1:
        raise AdapterFileError(
            f"{file}: {name} has the shape {array.shape}; a matrix is expected. Export it again."
        )
    if not array.is_finite():
        raise AdapterFileError(
            f"{file}: {name} holds values that are not finite; the training run diverged. Take an "
            "earlier checkpoint."
        )


def checked_pair(file: Path, module: str, found: Mapping[int, HostArray]) -> Pair:
    """The A and B (0 and 1 in ``found``) of ``module``, a linear layer, with one rank.

    Raises AdapterFileError where one is missing, they do not fit, or the module is an embedding.
    """
    if len(found) < 2:
        missing = "lora_b" if 0 in found else "lora_a"
        raise AdapterFileError(f"{file}: {module} has no {missing}; export the adapter again.")
    if module.rpartition(".")[2].startswith("embed_tokens"):
        raise AdapterFileError(
            f"{file}: {module} is an embedding, and only linear layers are served. Train with keys "
            "that leave it out."
        )
    a, b = found[0], found[1]
    if a.shape[1] != b.shape[0]:
        raise AdapterFileError(
            f"{file}: {module}: lora_a is {a.shape} and lora_b is {b.shape}; their ranks differ. "
            "PEFT files are transposed against this format: import them with their own "
            "adapter_config.json."
        )
    return a, b
