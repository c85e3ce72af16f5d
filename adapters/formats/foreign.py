"""Any adapter format by its own look, and any of them as the output."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from adapters.errors import AdapterFileError
from adapters.formats import mlx_lm, peft
from adapters.formats.files import read_bytes
from adapters.formats.mlx_lm import AdapterFiles
from adapters.formats.npz import DEFAULT_SCALE, read_npz, write_npz
from adapters.formats.oldest import Heads
from adapters.formats.safetensors_file import read_metadata

Format = Literal["mlx-lm", "npz", "peft"]
FORMATS: tuple[str, ...] = get_args(Format)

_MOST_CONFIG_BYTES = 1 << 20
_NO_BASE = "The files do not say which base they were trained on; only their shapes tell."
_BASE = "chainlora_base"
"""Beside the tensors of what we export: the fingerprint of the base."""
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Told:
    """What the giver says of an adapter whose files do not; None is unknown.

    ``scale`` belongs to npz alone, ``num_layers`` (blocks from the last one up, -1: all) to npz and
    PEFT. ``heads`` are the base's, for the oldest npz files.
    """

    scale: float | None = None
    num_layers: int | None = None
    heads: Heads | None = None


@dataclass(frozen=True, slots=True)
class Notes:
    """The format that was found, and what whoever serves the adapter should know.

    ``weights`` is the file that holds the matrices, ``base`` the fingerprint that it names, None
    where it names none.
    """

    format: Format
    weights: Path
    warnings: tuple[str, ...]
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to write an adapter: what the formats differ in.

    ``fold_scale``, npz alone: B is multiplied so that the file works with this scale.
    ``base_model``, PEFT alone: its ``base_model_name_or_path``. ``base`` is the fingerprint of the
    adapter's base, which a safetensors file keeps and npz has no place for.
    """

    fold_scale: float | None = None
    base_model: str | None = None
    base: str | None = None


NOTHING_TOLD = Told()
AS_IT_IS = Wanted()


def read_any(
    path: Path, told: Told = NOTHING_TOLD, *, follow_links: bool = False
) -> tuple[AdapterFiles, Notes]:
    """Read and check an ``.npz`` file, or an mlx-lm or PEFT directory; any thread, without MLX.

    Raises AdapterFileError for what is none of them, for what is wrong in it, and where ``told``
    contradicts what the format says itself.
    """
    if not path.is_dir():
        return _read_file(path, told, follow_links)
    found = _format_of(path, follow_links)
    if told.scale is not None:
        raise AdapterFileError(
            f"{path} states its own scale in {mlx_lm.CONFIG}; leave the scale out."
        )
    if found == "peft":
        layers = -1 if told.num_layers is None else told.num_layers
        files = peft.read_peft(path, num_layers=layers, follow_links=follow_links)
        return files, _noted("peft", path / peft.WEIGHTS)
    if told.num_layers is not None:
        raise AdapterFileError(
            f"{path} states its own num_layers in {mlx_lm.CONFIG}; leave num_layers out."
        )
    files = mlx_lm.read_adapter(path, follow_links=follow_links)
    return files, _noted("mlx-lm", path / mlx_lm.WEIGHTS)


def write_as(
    form: Format, files: AdapterFiles, path: Path, wanted: Wanted = AS_IT_IS
) -> tuple[str, ...]:
    """Write ``files`` as the new ``path``, whole or not at all; what its user should know.

    Raises FileExistsError where ``path`` exists, AdapterFileError where ``wanted`` asks for what
    the format has no place for, or cannot be done.
    """
    if wanted.fold_scale is not None and form != "npz":
        raise AdapterFileError(f"{form} files state their scale: fold_scale is for npz alone.")
    if wanted.base_model is not None and form != "peft":
        raise AdapterFileError(f"{form} files name no base: base_model is for peft alone.")
    metadata = {} if wanted.base is None else {_BASE: wanted.base}
    if form == "mlx-lm":
        mlx_lm.write_adapter(path, files, metadata=metadata)
        return ()
    if form == "peft":
        peft.write_peft(path, files, base_model=wanted.base_model, metadata=metadata)
        return ()
    error = write_npz(path, files, scale=wanted.fold_scale)
    scale = files.scale if wanted.fold_scale is None else wanted.fold_scale
    notes = [f"The file holds no scale: whatever loads it must multiply by {scale:g}."]
    if error:
        notes.append(
            f"Folding {files.scale:g} / {scale:g} into lora_b rounded it by at most {error:.1e}; a "
            "quotient that is a power of two would not."
        )
    return tuple(notes)


def _read_file(path: Path, told: Told, follow_links: bool) -> tuple[AdapterFiles, Notes]:
    warnings = [_NO_BASE]
    if told.scale is None:
        warnings.append(
            f"The file holds no scale; {DEFAULT_SCALE:g} is taken, mlx-examples' own since "
            "2024-01-09. Before that day it was 2."
        )
    files = read_npz(
        path,
        scale=DEFAULT_SCALE if told.scale is None else told.scale,
        num_layers=-1 if told.num_layers is None else told.num_layers,
        heads=told.heads,
        follow_links=follow_links,
    )
    return files, Notes("npz", path, tuple(warnings))


def _noted(form: Format, weights: Path) -> Notes:
    base = read_metadata(weights).get(_BASE)
    if base is not None and _FINGERPRINT.fullmatch(base) is None:
        raise AdapterFileError(
            f"{weights}: its {_BASE} is {base[:64]!a}, which is no fingerprint. Export it again."
        )
    return Notes(form, weights, (_NO_BASE,) if base is None else (), base)


def _format_of(path: Path, follow_links: bool) -> Format:
    """By its files' names, and by its configuration where those of both are there."""
    own, theirs = path / mlx_lm.WEIGHTS, path / peft.WEIGHTS
    if own.exists() and theirs.exists():
        config = path / mlx_lm.CONFIG
        raw = read_bytes(
            Path(os.path.realpath(config)) if follow_links else config, most=_MOST_CONFIG_BYTES
        )
        return "peft" if says_peft(raw) else "mlx-lm"
    if theirs.exists() or (path / peft.PICKLE).exists():
        return "peft"
    return "mlx-lm"


def says_peft(config: bytes) -> bool:
    """Whether an ``adapter_config.json`` is PEFT's; anything that is none is not."""
    try:
        parsed = json.loads(config)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and "peft_type" in parsed
