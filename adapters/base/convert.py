"""Convert: a Hugging Face directory becomes an MLX model directory, by mlx-lm's own converter."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.convert import MODEL_CONVERSION_DTYPES, QUANT_RECIPES
from mlx_lm.convert import convert as mlx_lm_convert
from mlx_lm.utils import load_model

from adapters.base.device import describe_device
from adapters.base.embedded import Progress
from adapters.base.load import brief, load_base
from adapters.base.scores import Change, Scores, change, first_tokens, scores
from adapters.base.tokenizer import load_tokenizer
from adapters.base.weights import Tensor, checked_tensors
from adapters.errors import BaseError
from adapters.formats.files import is_full
from adapters.formats.new_directory import new_directory

BITS = (2, 3, 4, 6, 8)
GROUP_SIZES = (32, 64, 128)
RECIPES: tuple[str, ...] = tuple(QUANT_RECIPES)
DTYPES: tuple[str, ...] = tuple(MODEL_CONVERSION_DTYPES)

_INDEX = "model.safetensors.index.json"
_FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the matrices are packed. ``recipe`` is one of RECIPES and chooses the bits itself."""

    bits: int = 4
    group_size: int = 64
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion wrote. Sizes are bytes of tensors; ``change`` is None without a check.

    ``unpacked`` of its ``matrices`` were to be packed and have a width that the group size does not
    divide, so that they stayed as they were.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    matrices: int
    unpacked: int
    change: Change | None


def convert_model(
    source: Path,
    out: Path,
    *,
    quantization: Quantization | None = None,
    dtype: str | None = None,
    text: str | None = None,
    progress: Progress,
) -> Conversion:
    """Write ``source`` as the new MLX model directory ``out``, whole or not at all.

    The files are those of mlx_lm.convert: ``dtype`` None is the one that config.json names. With
    ``text`` both models are scored on it as the server would compute them, in float32 on a CPU.
    What was written is loaded before it is put in place. Uses MLX on the calling thread and runs
    no code of the model's. Raises BaseError, StorageFull, and OSError where ``out`` cannot be made
    or exists.
    """
    before_bytes = _checked_source(source, quantization)
    before = None
    # A missing tokenizer is known before the long part.
    tokenizer = load_tokenizer(source)
    tokens = None if text is None else first_tokens(tokenizer.encode, text)
    # So is a place that cannot be written.
    with new_directory(out) as part:
        if tokens is not None:
            refuse_unscorable(source)
            progress("Scoring the text with the source.")
            before = _scores(source, tokens)
        progress("Converting.")
        _run_converter(source, part, quantization, dtype, progress)
        progress("Reading what was written.")
        matrices, unpacked = _packed(part, quantization)
        tokenizer = load_tokenizer(part)
        if text is not None and first_tokens(tokenizer.encode, text) != tokens:
            raise BaseError(f"{source}: its tokenizer was not converted soundly; nothing is kept.")
        after = _scores(part, tokens)
        written = sum(tensor.length for tensor in checked_tensors(part))
    return Conversion(
        path=out,
        bytes_before=before_bytes,
        bytes_after=written,
        matrices=matrices,
        unpacked=unpacked,
        change=None if before is None or after is None else change(before, after),
    )


def _checked_source(source: Path, quantization: Quantization | None) -> int:
    """Bytes of the source's tensors; raises BaseError for what cannot be converted."""
    if not any(source.glob("model*.safetensors")) and any(source.glob("*.bin")):
        raise BaseError(
            f"{source} has its weights as pickles (*.bin), which run code when they are read: take "
            "a revision of the model with safetensors."
        )
    total = sum(tensor.length for tensor in checked_tensors(source))
    _refuse_missing_parts(source)
    try:
        config = json.loads((source / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BaseError(f"{source / 'config.json'} cannot be read ({error}).") from error
    if not isinstance(config, dict):
        raise BaseError(f"{source / 'config.json'} is no mapping: fetch the model again.")
    packed = config.get("quantization") or config.get("quantization_config")
    if quantization is not None and packed:
        raise BaseError(
            f"{source} is quantized already: it is served as it is. To quantize in another way, "
            "start from the original weights."
        )
    return total


def _refuse_missing_parts(source: Path) -> None:
    """Raise BaseError where the index of the weights names files that are not there."""
    index = source / _INDEX
    if not index.is_file():
        return
    try:
        named = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseError(f"{index} cannot be read ({brief(error)}): fetch it again.") from error
    if missing := sorted(name for name in named if not (source / name).is_file()):
        raise BaseError(
            f"{source} lacks {len(missing)} of the {len(named)} files that {_INDEX} names, such as "
            f"{missing[0]}: fetch the model again."
        )


def refuse_unscorable(source: Path) -> None:
    """Raise BaseError where a check, which holds ``source`` in float32 on a CPU, would page."""
    device = describe_device()
    if device.kind != "cpu" or not device.memory_free_bytes:
        return
    widths = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    needed = sum(
        tensor.length * 4 // widths[tensor.dtype] if tensor.dtype in _FLOATS else tensor.length
        for tensor in checked_tensors(source)
    )
    if needed > device.memory_free_bytes:
        raise BaseError(
            f"To check before and after, {source} takes {needed / 1e9:.1f} GB on a CPU and "
            f"{device.memory_free_bytes / 1e9:.1f} GB are free: give --no-check, or free some."
        )


def _scores(path: Path, tokens: Sequence[int] | None) -> Scores | None:
    """Load ``path`` as a base and score ``tokens``; the model is gone afterwards.

    Without tokens only names and shapes are read: it may be larger than this machine's memory.
    """
    if tokens is None:
        try:
            load_model(path, lazy=True)
        except (ValueError, KeyError, TypeError) as error:
            raise BaseError(
                f"What was written cannot be loaded ({brief(error)}); report it."
            ) from error
        return None
    model: Any = load_base(path).model
    found = scores(model, tokens)
    del model
    gc.collect()
    mx.clear_cache()
    return found


def _run_converter(
    source: Path,
    part: Path,
    quantization: Quantization | None,
    dtype: str | None,
    progress: Progress,
) -> None:
    # It makes its directory itself, and refuses one that is there.
    part.rmdir()
    packing = quantization or Quantization()
    try:
        with contextlib.redirect_stdout(_Lines(progress)):
            mlx_lm_convert(
                str(source),
                str(part),
                quantize=quantization is not None,
                q_bits=packing.bits,
                q_group_size=packing.group_size,
                quant_predicate=packing.recipe if quantization else None,
                dtype=dtype,
                trust_remote_code=False,
            )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if is_full(error):
            raise
        raise BaseError(
            f"{source} could not be converted ({brief(error)}): give a directory of an "
            "architecture that mlx-lm knows, with all of its files."
        ) from error
    for file in part.glob("*.py"):
        # mlx-lm copies the source's own code; nothing of ours would run it.
        file.unlink()
    _settle_config(part / "config.json", dtype)


def _settle_config(file: Path, dtype: str | None) -> None:
    """mlx-lm leaves the source's number format in the configuration."""
    config = json.loads(file.read_bytes())
    named = {key: dtype for key in ("torch_dtype", "dtype") if dtype and key in config}
    file.write_text(json.dumps(config | named, indent=4) + "\n")


def _packed(part: Path, quantization: Quantization | None) -> tuple[int, int]:
    """How many matrices there are, and how many of them the group size kept from being packed.

    Raises BaseError where they were to be packed and none is: mlx-lm passes by them without a word.
    """
    tensors = {tensor.name: tensor for tensor in checked_tensors(part)}
    names = [name for name, each in tensors.items() if _is_matrix(each)]
    if quantization is None:
        return len(names), 0
    plain = [name for name in names if name.removesuffix("weight") + "scales" not in tensors]
    size = quantization.group_size
    unpacked = sum(tensors[name].shape[-1] % size != 0 for name in plain)
    if names and len(plain) == len(names):
        raise BaseError(
            f"None of the {len(names)} matrices can be packed: the group size of {size} divides no "
            "width. Give a smaller --group-size, or convert without -q."
        )
    return len(names), unpacked


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2


class _Lines(io.TextIOBase):
    """Passes each line that is written on to ``progress``, without mlx-lm's mark."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun = ""
        # ``progress`` may print: not into here again.
        self._outside = sys.stdout

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            said = line.removeprefix("[INFO] ").strip()
            # "Loading" and "Quantizing" come as bare words.
            if said:
                with contextlib.redirect_stdout(self._outside):
                    self._progress(said if said.endswith(".") else f"{said}.")
        return len(text)
