"""The base model, loaded once and never changed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from adapters.base.blocks import blocks_pay
from adapters.base.device import compute_dtype, describe_device
from adapters.base.embedded import Progress, ensure_embedded
from adapters.base.heap import keep_freed_memory
from adapters.base.linear import dense_bytes, use_float32_layers
from adapters.base.operations import use_fast_operations
from adapters.base.weights import checked_tensors
from adapters.errors import BaseError

HUB_WAIT_S = 20.0
"""So long a hub may take to say that it has a model."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_HUB_FILES = [
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "*.tiktoken",
    "*.txt",
    "*.jsonl",
    "*.jinja",
]


@dataclass(frozen=True, slots=True)
class Compute:
    """How the base's products are computed. Sizes are bytes.

    ``form`` is "quantized" (MLX's own product; Metal and CUDA), "dense" (float32 matrices kept
    beside the quantized arrays), "blocks" (kept once more in blocks, for few rows), "dequantize"
    (made in each call) or "plain" (a model without quantized layers). ``dense_bytes`` is what the
    kept matrices take, ``dense_budget_bytes`` what they may take; both 0 off the CPU.
    """

    device: str
    form: str
    dtype: str
    parameter_bytes: int
    dense_bytes: int
    dense_budget_bytes: int


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base. ``model`` is used only on the thread that loaded it."""

    model: Module
    config: Mapping[str, Any]
    path: Path
    compute: Compute


def resolve_model(name: str | None, data_dir: Path, *, progress: Progress | None = None) -> Path:
    """The local directory of a model: None is the embedded one, else a directory or a hub id.

    A hub id is fetched into the Hugging Face cache, without its Python files. Raises BaseError
    where ``name`` is none of these or cannot be fetched.
    """
    if name is None:
        return ensure_embedded(data_dir, progress=progress)
    directory = Path(name).expanduser()
    if name and directory.is_dir():
        return directory.resolve()
    if name and directory.exists():
        raise BaseError(f"{name!r} is a file: give the model's directory instead.")
    if not _HUB_ID.fullmatch(name):
        raise BaseError(
            f"There is no directory {name!r}, and it is no hub id (owner/name) either: give an MLX "
            "model directory, a hub id, or nothing for the embedded model."
        )
    try:
        return _fetched(name)
    except Exception as error:  # the hub's client raises its own, requests' and the system's errors
        raise BaseError(
            f"The model {name!r} could not be fetched from the hub ({brief(error)}): "
            "check the name and the network, or give a local directory."
        ) from error


def _fetched(name: str) -> Path:
    """The hub's model in its cache, brought up to date where the hub answers in time."""
    # Imported late: only this needs the hub's client, and a test may run without a network.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        # Its own question of a download waits for ever for a hub that does not answer.
        HfApi().model_info(name, timeout=HUB_WAIT_S)
    except RepositoryNotFoundError:
        raise  # the hub has answered: a name that it does not know, or may not give
    except Exception:
        with contextlib.suppress(Exception):
            kept = snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True)
            return Path(kept)
        raise
    return Path(snapshot_download(name, allow_patterns=_HUB_FILES))


def load_base(path: Path, *, cpu_float32_bytes: int | None = None) -> Base:
    """Load and evaluate the model in ``path`` on the calling thread, which alone may use it.

    On a CPU everything is computed in float32, and the dequantized matrices are kept where all of
    them fit ``cpu_float32_bytes`` (default: a quarter of the free memory), twice where that pays
    and fits. Raises BaseError for a
    directory that mlx-lm cannot load, for models that bring their own code, and for those whose
    cache cannot batch.
    """
    checked_tensors(path)
    device = describe_device()
    try:
        model, config = load_model(path, lazy=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseError(
            f"{path} could not be loaded as an MLX model ({brief(error)}): give a directory "
            "that mlx_lm.convert wrote, of an architecture that mlx-lm knows."
        ) from error
    _refuse_unbatchable(model, path)
    form, kept, budget = "plain", 0, 0
    dtype = compute_dtype(device.kind)
    if dtype is not None:
        budget = device.memory_free_bytes // 4 if cpu_float32_bytes is None else cpu_float32_bytes
        _refuse_too_large(model, path, device.memory_free_bytes)
        model.set_dtype(dtype)
        keep_freed_memory()
        use_fast_operations(model)
    mx.eval(_arrays(model))
    needed = dense_bytes(model)
    if needed and dtype is not None:
        copies = 2 if blocks_pay() and 2 * needed <= budget else int(needed <= budget)
        form, kept = ("dequantize", "dense", "blocks")[copies], copies * needed
        use_float32_layers(model, dense=copies > 0, blocks=copies > 1)
    elif needed:
        form = "quantized"
    model.eval()
    model.freeze()
    return Base(
        model=model,
        config=MappingProxyType(config),
        path=path,
        compute=Compute(
            device=device.kind,
            form=form,
            dtype=_float_dtype(model),
            parameter_bytes=sum(array.nbytes for array in _arrays(model)),
            dense_bytes=kept,
            dense_budget_bytes=budget,
        ),
    )


def brief(error: Exception) -> str:
    """A library's error with its class, on one line, cut where it lists a model's parameters."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 400 else f"{text[:400]}..."


def _refuse_unbatchable(model: Module, path: Path) -> None:
    fixed = {type(cache).__name__ for cache in make_prompt_cache(model) if not _merges(cache)}
    if fixed:
        raise BaseError(
            f"{path}: the cache of this architecture ({', '.join(sorted(fixed))}) cannot hold "
            "several requests at once, which serving needs: choose another model."
        )


def _merges(cache: Any) -> bool:
    """Whether a cache, or each one inside a list of caches, can become a batch."""
    inner = getattr(cache, "caches", None)
    return all(map(_merges, inner)) if inner is not None else hasattr(cache, "merge")


def _refuse_too_large(model: Module, path: Path, free: int) -> None:
    """float32 doubles a 16-bit model: say so before the system ends this process for it."""
    needed = sum(
        array.size * 4 if mx.issubdtype(array.dtype, mx.floating) else array.nbytes
        for array in _arrays(model)
    )
    if free and needed > free:
        raise BaseError(
            f"{path} takes {needed / 1e9:.1f} GB on a CPU and {free / 1e9:.1f} GB are free: choose "
            "a smaller or quantized model, or free some memory."
        )


def _float_dtype(model: Module) -> str:
    """The widest floating format among the parameters."""
    found = {a.dtype for a in _arrays(model) if mx.issubdtype(a.dtype, mx.floating)}
    return str(max(found, key=lambda dtype: (dtype.size, str(dtype)))).removeprefix("mlx.core.")


def _arrays(model: Any) -> list[mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return [array for _, array in flat]
