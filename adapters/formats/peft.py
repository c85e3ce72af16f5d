"""PEFT adapter directories: ``adapter_model.safetensors`` beside ``adapter_config.json``.

Format: Hugging Face's ``peft``, ``tuners/lora``. Its A is (rank, in) and its B (out, rank), both
transposed against ours, and its scale is alpha / rank, or alpha / sqrt(rank) with rsLoRA. No text
of a file ever becomes a regular expression.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray, from_values, padded, transposed, values_of
from adapters.formats.config_file import read_config
from adapters.formats.files import sync
from adapters.formats.limits import MOST_RANK, check_limits
from adapters.formats.mlx_lm import AdapterFiles
from adapters.formats.pairs import Pair, check_matrix, checked_pair, is_module_path
from adapters.formats.safetensors_file import read_tensors, write_tensors
from adapters.shape import LoraShape, Target

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLE = "adapter_model.bin"

_MOST_WEIGHT_BYTES = 8 << 30
_PREFIX = "base_model.model."
_PARTS = {"lora_A.weight": 0, "lora_B.weight": 1}
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Initialisations that leave the base's own weights as they are."""
_LITERAL = re.compile(r"\^?[A-Za-z0-9_]+((\\)?\.[A-Za-z0-9_]+)*\$?")

_REFUSED = {
    "use_dora": "DoRA also scales each output's magnitude, and only LoRA is served",
    "modules_to_save": "modules_to_save are whole layers, and the base is shared",
    "lora_bias": "lora_bias adds a vector that no LoRA layer here has",
    "trainable_token_indices": "trained tokens change the embedding, and the base is shared",
    "layer_replication": "layer_replication makes another model of the base",
    "target_parameters": "target_parameters adapts the experts of a mixture, which are not served",
    "use_qalora": "QALoRA pools the input, and only LoRA is served",
    "use_bdlora": "block-diagonal LoRA is another layer, and only LoRA is served",
    "alora_invocation_tokens": "an activated LoRA works from a token on, and only LoRA is served",
    "kasa_config": "KaSA cuts the base's own weights, and only LoRA is served",
    "monteclora_config": "Monteclora samples around the weights, and only LoRA is served",
    "arrow_config": "Arrow routes between several adapters, and one is served per request",
}
_FOREIGN_TENSORS = {
    "lora_magnitude_vector": "it belongs to DoRA, and only LoRA is served",
    "lora_embedding_": "it adapts an embedding, and only linear layers are served",
    "lora_B.bias": "lora_bias adds a vector that no LoRA layer here has",
    "modules_to_save": "modules_to_save are whole layers, and the base is shared",
    "embed_tokens.base_layer": "it adapts an embedding, and only linear layers are served",
    "base_layer.weight": "it is a layer of the base itself, which peft writes beside an adapter on "
    "the output layer: save with save_embedding_layers=False",
    "token_adapter": "trained tokens change the embedding, and the base is shared",
    "embed_tokens": "it is a whole embedding (added vocabulary), and the base is shared",
    "lm_head.weight": "it is a whole output layer (added vocabulary), and the base is shared",
}


class _Config(BaseModel):
    # Whatever else peft writes there decides how the adapter is trained, not what it computes.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    peft_type: str
    # The defaults are peft's own: what is no LoRA has neither, and is refused by its type.
    r: int = Field(default=8, ge=1, le=MOST_RANK)
    lora_alpha: float = Field(default=8.0, ge=-1e8, le=1e8)
    use_rslora: bool = False
    bias: str = "none"
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_pattern: dict[str, int] | None = Field(default=None, max_length=10_000)
    alpha_pattern: dict[str, float] | None = Field(default=None, max_length=10_000)
    init_lora_weights: bool | str = True


def read_peft(path: Path, *, num_layers: int = -1, follow_links: bool = False) -> AdapterFiles:
    """Read and check the PEFT directory ``path``; runs on any thread, without MLX.

    Modules of a smaller rank get columns of zeros, and where scales differ by module the factor is
    folded into B, if that is exact: what the adapter computes stays what it was. ``num_layers``
    (-1: all) is how many blocks the chain adapts, which the files do not tell.
    Raises AdapterFileError with what is wrong, where, and what to do about it; so for everything
    that is more than LoRA on linear layers.
    """
    config_file, file = path / CONFIG, path / WEIGHTS
    if not file.exists() and (path / PICKLE).exists():
        raise AdapterFileError(
            f"{path / PICKLE} is a Python pickle, which can run code and is never opened. Save the "
            "adapter with safe_serialization=True."
        )
    if follow_links:
        config_file, file = (Path(os.path.realpath(each)) for each in (config_file, file))
    config = _read_config(config_file)
    pairs = _read_pairs(file)
    _check_ranks(file, config, pairs)
    scales = {module: _scale(config_file, config, module, pair) for module, pair in pairs.items()}
    scale, tensors = _one_scale(file, pairs, scales)
    rank = max(a.shape[1] for a, _ in tensors.values())
    tensors = {name: (padded(a, 1, rank), padded(b, 0, rank)) for name, (a, b) in tensors.items()}
    keys = tuple(sorted({Target(module, rank, 0, 0).key for module in tensors}))
    shape = LoraShape(rank, scale, num_layers, keys, config.lora_dropout)
    check_limits(file, shape, tensors)
    return AdapterFiles(shape, {name: tensors[name] for name in sorted(tensors)})


def write_peft(
    path: Path,
    files: AdapterFiles,
    *,
    base_model: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``files`` as the new directory ``path``, durable and whole or not at all.

    ``PeftModel.from_pretrained`` loads it; ``base_model`` is its ``base_model_name_or_path``, for
    loaders that find the base by it. Raises FileExistsError where ``path`` exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a written adapter is never changed")
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        tensors = {
            f"{_PREFIX}{module}.{name}": transposed(pair[index])
            for module, pair in files.tensors.items()
            for name, index in _PARTS.items()
        }
        write_tensors(part / WEIGHTS, tensors, metadata={"format": "pt", **(metadata or {})})
        text = json.dumps(config_of(files, base_model), indent=2)
        (part / CONFIG).write_text(text + "\n")
        for each in (part / WEIGHTS, part / CONFIG, part):
            sync(each)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(path.parent)


def config_of(files: AdapterFiles, base_model: str | None) -> dict[str, Any]:
    """PEFT's ``adapter_config.json`` of an adapter: its modules by their whole paths."""
    shape = files.shape
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": shape.rank,
        "lora_alpha": alpha_for(shape.scale, shape.rank),
        "use_rslora": False,
        "lora_dropout": shape.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": sorted(files.tensors),
    }


def alpha_for(scale: float, rank: int) -> float:
    """The alpha whose quotient by ``rank`` is ``scale``.

    Exact where ``scale`` is a float32, else as near as a float64 gets.
    """
    near = scale * rank
    tried = (near, math.nextafter(near, -math.inf), math.nextafter(near, math.inf))
    return min(tried, key=lambda alpha: abs(alpha / rank - scale))


def _read_config(file: Path) -> _Config:
    config = read_config(file, _Config, writer="peft")
    if config.peft_type != "LORA":
        raise AdapterFileError(
            f"{file}: peft_type is {config.peft_type!a}; only 'LORA' is served. Train with "
            "LoraConfig."
        )
    extra = config.model_extra or {}
    for name, reason in _REFUSED.items():
        if extra.get(name):
            raise AdapterFileError(f"{file}: {name}: {reason}. Train without it.")
    if config.bias != "none":
        raise AdapterFileError(
            f"{file}: bias is {config.bias!a}: trained biases change the base, which is shared. "
            "Train with bias='none'."
        )
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise AdapterFileError(
            f"{file}: init_lora_weights is {config.init_lora_weights!a}, which changes the base's "
            "own weights. Save the adapter converted to plain LoRA (peft: "
            "path_initial_model_for_weight_conversion)."
        )
    return config


def _read_pairs(file: Path) -> dict[str, Pair]:
    halves: dict[str, dict[int, HostArray]] = {}
    for name, array in read_tensors(file, most=_MOST_WEIGHT_BYTES).items():
        part = next((each for each in _PARTS if name.endswith(f".{each}")), None)
        module = name.removeprefix(_PREFIX).removesuffix(f".{part}")
        if part is None or not name.startswith(_PREFIX) or not is_module_path(module):
            raise AdapterFileError(f"{file}: the tensor {name!a}: {_why_not(name)}.")
        check_matrix(file, name, array)
        halves.setdefault(module, {})[_PARTS[part]] = transposed(array)
    if not halves:
        raise AdapterFileError(f"{file} holds no tensor: export the adapter again.")
    return {module: checked_pair(file, module, halves[module]) for module in sorted(halves)}


def _why_not(name: str) -> str:
    known = (reason for part, reason in _FOREIGN_TENSORS.items() if part in name)
    return next(
        known, f"it is no part of a LoRA adapter ({_PREFIX}….lora_A.weight, ….lora_B.weight)"
    )


def _check_ranks(file: Path, config: _Config, pairs: Mapping[str, Pair]) -> None:
    """Without a pattern every rank is the configuration's; with one, the tensors have the word."""
    if config.rank_pattern:
        return
    for module, (a, _) in pairs.items():
        if a.shape[1] != config.r:
            raise AdapterFileError(
                f"{file} contradicts {CONFIG}: {module} has rank {a.shape[1]}, r is {config.r}. "
                "Give both files of one training run."
            )


def _scale(file: Path, config: _Config, module: str, pair: Pair) -> float:
    rank = pair[0].shape[1]
    alpha = config.lora_alpha
    for pattern, own in (config.alpha_pattern or {}).items():
        if _matches(file, pattern, module):
            alpha = own
            break
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    if not math.isfinite(scale) or scale == 0:
        raise AdapterFileError(
            f"{file}: {module}: alpha is {alpha:g}, so the adapter does nothing there; give the "
            "alpha that it was trained with."
        )
    return scale


def _matches(file: Path, pattern: str, module: str) -> bool:
    """Whether a name of alpha_pattern means ``module``: its last steps, after ``^`` its whole path.

    PEFT takes these names as regular expressions. Those that are plain names mean the same here.
    """
    if len(pattern) > 256 or _LITERAL.fullmatch(pattern) is None:
        raise AdapterFileError(
            f"{file}: alpha_pattern: {pattern[:64]!a} is a regular expression, and only module "
            "names are read. Write one entry for each module."
        )
    name = pattern.strip("^$").replace("\\", "")
    return module == name or (not pattern.startswith("^") and module.endswith(f".{name}"))


def _one_scale(
    file: Path, pairs: Mapping[str, Pair], scales: Mapping[str, float]
) -> tuple[float, dict[str, Pair]]:
    """One scale for all modules, and the tensors that compute with it what they did with theirs."""
    for scale, _ in Counter(scales.values()).most_common(16):
        folded: dict[str, Pair] = {}
        for module, (a, b) in pairs.items():
            own = b if scales[module] == scale else _times(b, scales[module] / scale)
            if own is None:
                break
            folded[module] = (a, own)
        else:
            return scale, folded
    listed = ", ".join(f"{each:g}" for each in sorted(set(scales.values()))[:5])
    raise AdapterFileError(
        f"{file}: its modules have different scales ({listed}), and no float32 B holds the "
        "quotients exactly. A chain has one scale: train with one alpha and one rank."
    )


def _times(b: HostArray, factor: float) -> HostArray | None:
    """``b`` times ``factor`` where float32 holds every product exactly, else None."""
    values = values_of(b).astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        product = values * factor
        rounded = product.astype(np.float32)
    if not np.isfinite(rounded).all() or not (rounded.astype(np.float64) == product).all():
        return None
    return from_values(rounded)
