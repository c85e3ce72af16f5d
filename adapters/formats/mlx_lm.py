"""mlx-lm adapter directories: ``adapters.safetensors`` beside ``adapter_config.json``.

A directory is checked in full before anything is believed: sizes, the header, names, types, shapes,
values, and that tensors and configuration agree. Whether it fits a base is the router's question.
Format: mlx-lm's ``tuner/utils.py`` and ``tuner/lora.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray
from adapters.formats.config_file import read_config
from adapters.formats.files import sync
from adapters.formats.limits import MOST_RANK, MOST_SCALE, check_limits
from adapters.formats.pairs import Pair, check_matrix, checked_pair, is_module_path
from adapters.formats.safetensors_file import read_tensors, write_tensors
from adapters.shape import LoraShape, Target

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"

_MOST_WEIGHT_BYTES = 8 << 30
_PARTS = {"lora_a": 0, "lora_b": 1}


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFiles:
    """An adapter in host memory: its shape, and A (in, rank) and B (rank, out) by module path."""

    shape: LoraShape
    tensors: Mapping[str, Pair]

    @property
    def scale(self) -> float:
        """The factor of every module's update."""
        return self.shape.scale

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(len(a.data) + len(b.data) for a, b in self.tensors.values())

    @property
    def targets(self) -> tuple[Target, ...]:
        """The adapted modules, by path."""
        return tuple(
            Target(path, a.shape[1], a.shape[0], b.shape[1])
            for path, (a, b) in sorted(self.tensors.items())
        )


class _LoraParameters(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    rank: int = Field(ge=1, le=MOST_RANK)
    scale: float = Field(ge=-MOST_SCALE, le=MOST_SCALE)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    keys: list[str] | None = Field(default=None, min_length=1, max_length=1000)


class _Config(BaseModel):
    # mlx_lm.lora writes all of its command line into this file: other fields mean nothing here.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    fine_tune_type: str = "lora"
    num_layers: int = Field(ge=-1, le=100_000)
    lora_parameters: _LoraParameters


def read_adapter(path: Path, *, follow_links: bool = False) -> AdapterFiles:
    """Read and check the adapter directory ``path``; runs on any thread, without MLX.

    With ``follow_links`` its files may be symbolic links, as in a snapshot of a model hub: only for
    a directory that the operator names. What a link leads to is checked like any file.
    Raises AdapterFileError with what is wrong, where, and what to do about it.
    """
    config, file = path / CONFIG, path / WEIGHTS
    if follow_links:
        config, file = (Path(os.path.realpath(each)) for each in (config, file))
    shape = _read_config(config)
    halves: dict[str, dict[int, HostArray]] = {}
    for name, array in read_tensors(file, most=_MOST_WEIGHT_BYTES).items():
        module, _, part = name.rpartition(".")
        if part not in _PARTS or not is_module_path(module):
            raise AdapterFileError(
                f"{file}: the tensor {name!r} is no part of a LoRA adapter (lora_a, lora_b). Full "
                "and DoRA fine-tunes are not served; train with fine_tune_type lora."
            )
        check_matrix(file, name, array)
        halves.setdefault(module, {})[_PARTS[part]] = array
    if not halves:
        raise AdapterFileError(f"{file} holds no tensor: export the adapter again.")
    tensors = {module: checked_pair(file, module, halves[module]) for module in sorted(halves)}
    files = AdapterFiles(shape, tensors)
    if misfits := shape.misfits(files.targets):
        more = f" ({len(misfits) - 1} more)" if len(misfits) > 1 else ""
        raise AdapterFileError(
            f"{file} contradicts {CONFIG}: {misfits[0]}{more}. Give both files of one training run."
        )
    check_limits(file, shape, tensors)
    return files


def write_adapter(
    path: Path, files: AdapterFiles, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``files`` as the new directory ``path``, durable and whole or not at all.

    ``mlx_lm.load(adapter_path=path)`` loads it; ``metadata`` lies beside the tensors.
    Raises FileExistsError where ``path`` exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a written adapter is never changed")
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        tensors = {
            f"{module}.{name}": pair[index]
            for module, pair in files.tensors.items()
            for name, index in _PARTS.items()
        }
        write_tensors(part / WEIGHTS, tensors, metadata=metadata)
        (part / CONFIG).write_text(json.dumps(config_of(files.shape), indent=2) + "\n")
        for each in (part / WEIGHTS, part / CONFIG, part):
            sync(each)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(path.parent)


def config_of(shape: LoraShape) -> dict[str, Any]:
    """The ``adapter_config.json`` of a shape."""
    parameters: dict[str, Any] = {
        "rank": shape.rank,
        "scale": shape.scale,
        "dropout": shape.dropout,
    }
    if shape.keys is not None:
        parameters["keys"] = list(shape.keys)
    return {
        "fine_tune_type": "lora",
        "num_layers": shape.num_layers,
        "lora_parameters": parameters,
    }


def _read_config(file: Path) -> LoraShape:
    config = read_config(file, _Config, writer="mlx_lm.lora")
    if config.fine_tune_type != "lora":
        raise AdapterFileError(
            f"{file}: fine_tune_type is {config.fine_tune_type!r}; only 'lora' is served. Train "
            "with fine_tune_type lora."
        )
    lora = config.lora_parameters
    if lora.scale == 0:
        raise AdapterFileError(
            f"{file}: lora_parameters.scale is 0, so the adapter does nothing; give the scale that "
            "it was trained with."
        )
    keys = None if lora.keys is None else tuple(lora.keys)
    # mlx-lm takes 0 for all blocks as it does -1.
    return LoraShape(lora.rank, lora.scale, config.num_layers or -1, keys, lora.dropout)
