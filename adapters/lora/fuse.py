"""Fuse: a model directory with an adapter merged into its matrices."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx.utils import tree_map_with_path
from mlx_lm.utils import dequantize_model, load_model, save_config, save_model

from adapters.base.convert import refuse_unscorable
from adapters.base.device import describe_device
from adapters.base.linear import dense_bytes
from adapters.base.load import brief, load_base
from adapters.base.scores import Change, Scores, change, first_tokens, scores
from adapters.base.tokenizer import load_tokenizer
from adapters.base.weights import checked_tensors
from adapters.errors import BaseError
from adapters.formats.arrays import to_mlx
from adapters.formats.mlx_lm import AdapterFiles
from adapters.formats.new_directory import new_directory
from adapters.lora.resident import make_resident
from adapters.lora.router import Router
from adapters.lora.routes import UniformRoute

DTYPES = ("float16", "bfloat16", "float32")

_TEXTS = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
)
"""Files beside the weights that a model directory is made of, but for its configuration."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """What was written. Sizes are bytes of tensors; ``change`` is None without a check.

    The change is from base and adapter, as they are served, to the one model.
    """

    path: Path
    modules: int
    quantized: bool
    bytes_before: int
    bytes_after: int
    change: Change | None


def fuse_adapter(
    base: Path,
    files: AdapterFiles,
    out: Path,
    *,
    requantize: bool = False,
    dtype: str | None = None,
    text: str | None = None,
    progress: Callable[[str], None],
) -> Fusion:
    """Write ``base`` with ``files`` merged in as the new directory ``out``, whole or not at all.

    By default nothing stays quantized and ``dtype`` (one of DTYPES; None is the base's own) is the
    format of all. With ``requantize`` the merged matrices are packed as the base packs them, layer
    by layer, and every other array stays as it is, bit for bit. The sum is made in float32. With
    ``text`` both forms are scored on it. Raises BaseError, AdapterMismatch, StorageFull, and
    OSError where ``out`` cannot be made or exists. Uses MLX on the calling thread.
    """
    before = sum(tensor.length for tensor in checked_tensors(base))
    model, config = _loaded(base)
    Router(model).check({path: (a.shape, b.shape) for path, (a, b) in files.tensors.items()})
    packed = any(isinstance(layer, QuantizedLinear | QuantizedEmbedding) for layer in _all(model))
    if requantize and not packed:
        raise BaseError(f"{base} is not quantized, so nothing can be quantized as it is there.")
    tokens = None if text is None else first_tokens(load_tokenizer(base).encode, text)
    served = None
    with new_directory(out) as part:
        if tokens is not None:
            refuse_unscorable(base)
            if not requantize:
                _refuse_too_large(dense_bytes(model))
            progress("Scoring the text with base and adapter.")
            served = _served_scores(base, files, tokens)
        progress(f"Merging {len(files.tensors)} modules.")
        if requantize:
            _merge_packed(model, files)
        else:
            _merge_plain(model, files, dtype)
            for name in ("quantization", "quantization_config"):
                config.pop(name, None)
            _name_format(config, dtype)
        _write(part, base, model, config)
        del model
        progress("Reading what was written.")
        fused = _fused_scores(part, tokens)
        after = sum(tensor.length for tensor in checked_tensors(part))
    found = None if served is None or fused is None else change(served, fused)
    return Fusion(out, len(files.tensors), requantize, before, after, found)


def _loaded(base: Path) -> tuple[Any, dict[str, Any]]:
    try:
        return load_model(base, lazy=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseError(
            f"{base} could not be loaded as an MLX model ({brief(error)}): give "
            "the directory of the base that the adapter was trained on."
        ) from error


def _all(model: Any) -> list[Any]:
    return [layer for _, layer in model.named_modules()]


def _update(files: AdapterFiles, path: str) -> mx.array:
    """What the adapter adds to a layer's matrix: (out, in), float32."""
    a, b = (to_mlx(each).astype(mx.float32) for each in files.tensors[path])
    return (files.scale * (a @ b)).T


def _merge_plain(model: Any, files: AdapterFiles, dtype: str | None) -> None:
    """Every matrix as it is multiplied, the targets with their update; then the format."""
    own = _own_format(model, next(iter(files.tensors)))
    # First: 16-bit scales would round the matrices before the sum.
    model.set_dtype(mx.float32)
    dequantize_model(model)
    modules = dict(model.named_modules())
    for path in files.tensors:
        modules[path].weight = modules[path].weight + _update(files, path)
    wanted = own if dtype is None else getattr(mx, dtype)
    keeps: Callable[[str], bool] = getattr(model, "cast_predicate", lambda _: True)

    def cast(name: str, array: mx.array) -> mx.array:
        floating = mx.issubdtype(array.dtype, mx.floating)
        return array.astype(wanted) if floating and keeps(name) else array

    cast_all: Any = tree_map_with_path
    model.update(cast_all(cast, model.parameters()))


def _own_format(model: Any, path: str) -> mx.Dtype:
    """The floating format of a layer of the base."""
    layer = dict(model.named_modules())[path]
    array: mx.array = layer.scales if isinstance(layer, QuantizedLinear) else layer.weight
    return array.dtype if mx.issubdtype(array.dtype, mx.floating) else mx.bfloat16


def _name_format(config: dict[str, Any], dtype: str | None) -> None:
    if dtype is not None:
        config |= {name: dtype for name in ("torch_dtype", "dtype") if name in config}


def _merge_packed(model: Any, files: AdapterFiles) -> None:
    """The targets alone, each in its own packing."""
    modules = dict(model.named_modules())
    for path in files.tensors:
        layer = modules[path]
        update = _update(files, path)
        if not isinstance(layer, QuantizedLinear):
            layer.weight = (layer.weight.astype(mx.float32) + update).astype(layer.weight.dtype)
            continue
        packing = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        float_scales = mx.issubdtype(layer.scales.dtype, mx.floating)
        exact = layer.scales.astype(mx.float32) if float_scales else layer.scales
        offsets = layer.get("biases")
        matrix = mx.dequantize(
            layer.weight,
            scales=exact,
            biases=None if offsets is None else offsets.astype(mx.float32),
            dtype=mx.float32,
            **packing,
        )
        weight, scales, *rest = mx.quantize(matrix + update, **packing)
        layer.weight = weight
        layer.scales = scales.astype(layer.scales.dtype)
        if offsets is not None:
            layer.biases = rest[0].astype(offsets.dtype)


def _write(part: Path, base: Path, model: Any, config: dict[str, Any]) -> None:
    vision = "vision_tower" in getattr(model, "model", {})
    save_model(part, model, donate_model=True)
    save_config(config, config_path=part / "config.json", keep_vision_config=vision)
    for pattern in _TEXTS:
        for file in base.glob(pattern):
            if file.is_file() and not (part / file.name).exists():
                shutil.copyfile(file, part / file.name)


def _served_scores(base: Path, files: AdapterFiles, tokens: Sequence[int]) -> Scores:
    """As the server computes a request for the adapter."""
    loaded = load_base(base)
    model: Any = loaded.model
    router = Router(model)
    resident = make_resident("fused", files, getattr(mx, loaded.compute.dtype))
    router.attach(resident)
    with router.routing(UniformRoute(resident)):
        found = scores(model, tokens)
    del model, loaded, router
    _free()
    return found


def _fused_scores(part: Path, tokens: Sequence[int] | None) -> Scores | None:
    if tokens is None:
        _loaded(part)
        return None
    model: Any = load_base(part).model
    found = scores(model, tokens)
    del model
    _free()
    return found


def _free() -> None:
    gc.collect()
    mx.clear_cache()


def _refuse_too_large(needed: int) -> None:
    """Nothing is quantized in the result, which the check holds in float32 on a CPU."""
    device = describe_device()
    if device.kind == "cpu" and 0 < device.memory_free_bytes < needed:
        raise BaseError(
            f"To check it, the fused model takes {needed / 1e9:.1f} GB on a CPU and "
            f"{device.memory_free_bytes / 1e9:.1f} GB are free: give --no-check, or --requantize."
        )
