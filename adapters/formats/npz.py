"""The ``.npz`` files of mlx-examples' ``lora.py``: names and matrices, and nothing else.

Format: mlx-examples' ``lora/lora.py`` and ``lora/models.py``; A is (in, rank) and B (rank, out), as
in mlx-lm. The file tells neither scale nor base, and nothing about the blocks that were trained.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray, from_values, values_of
from adapters.formats.files import read_bytes, sync
from adapters.formats.limits import MOST_TENSORS, check_limits
from adapters.formats.mlx_lm import AdapterFiles
from adapters.formats.oldest import Heads, with_todays_names
from adapters.formats.pairs import Pair, check_matrix, checked_pair, is_module_path
from adapters.shape import LoraShape, Target

DEFAULT_SCALE = 20.0
"""What ``lora.py`` multiplies by since 2024-01-09; before, it was 2."""

_MOST_BYTES = 8 << 30
_UNPACKED_FLOOR, _UNPACKED_RATIO = 64 << 20, 64
"""A's values are noise that does not compress, so a sound archive never grows much."""
_MOST_NPY_HEADER = 10_000
_NUMPY_REFUSALS = (
    ValueError, SyntaxError, TypeError, RecursionError, MemoryError, TokenError,
)  # fmt: skip
"""What comes out of numpy's reading of a header, which it also tries as Python 2's."""
_ZIP_REFUSALS = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError,
    OSError, struct.error, OverflowError,
)  # fmt: skip
"""What comes out of Python's reading of an archive that contradicts itself."""
_SUFFIX = ".npy"
_PARTS = {"lora_a": 0, "lora_b": 1}
_READ = {"<f4": "F32", "<f2": "F16", "|V2": "BF16"}
"""MLX writes bfloat16 as two bytes without a type."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def read_npz(
    path: Path,
    *,
    scale: float,
    num_layers: int = -1,
    heads: Heads | None = None,
    follow_links: bool = False,
) -> AdapterFiles:
    """Read and check ``path``; runs on any thread, without MLX. Nothing in it is ever unpickled.

    ``scale`` and ``num_layers`` (-1: all) are the trainer's own, which the file does not tell. The
    oldest names (``layers.0.attention.wq``) become today's, and then ``heads`` must be given: the
    outputs of wq and wk are put into the order that Hugging Face models have them in.
    Raises AdapterFileError with what is wrong, where, and what to do about it.
    """
    if not math.isfinite(scale) or scale == 0:
        raise AdapterFileError(
            f"{path}: the scale {scale:g} is not usable; give the one it was trained with (20, or "
            "2 for a file from before 2024-01-09)."
        )
    file = Path(os.path.realpath(path)) if follow_links else path
    halves: dict[str, dict[int, HostArray]] = {}
    for name, array in _members(file):
        module, _, part = name.rpartition(".")
        if part not in _PARTS or not is_module_path(module):
            raise AdapterFileError(
                f"{file}: the array {name!r} is no part of a LoRA adapter (lora_a, lora_b). Give "
                "the file that lora.py wrote as --adapter-file."
            )
        check_matrix(file, name, array)
        halves.setdefault(module, {})[_PARTS[part]] = array
    if not halves:
        raise AdapterFileError(f"{file} holds no array: export the adapter again.")
    found = {module: checked_pair(file, module, halves[module]) for module in halves}
    tensors = with_todays_names(file, found, heads)
    ranks = sorted({a.shape[1] for a, _ in tensors.values()})
    if len(ranks) > 1:
        raise AdapterFileError(
            f"{file} has modules of the ranks {ranks}; lora.py writes one. Export it again."
        )
    targets = [Target(module, ranks[0], 0, 0) for module in tensors]
    keys = tuple(sorted({target.key for target in targets}))
    shape = LoraShape(ranks[0], scale, num_layers, keys)
    check_limits(file, shape, tensors)
    return AdapterFiles(shape, {name: tensors[name] for name in sorted(tensors)})


def write_npz(path: Path, files: AdapterFiles, *, scale: float | None = None) -> float:
    """Write ``files`` as the new file ``path``, whole or not at all; returns the rounding error.

    The file holds no scale: whoever loads it must use ``files.scale``, or ``scale`` where that is
    given, for which B is multiplied. The error is the largest relative one of B's values: 0 without
    ``scale``, and where the quotient of both is a power of two. float32 and float16 are kept,
    bfloat16 is written as float32, which holds it exactly.
    Raises FileExistsError where ``path`` exists, AdapterFileError where no float32 can hold B.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; a written adapter is never changed")
    tensors, error = (files.tensors, 0.0) if scale is None else _folded(files, scale)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".npz", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            _write_members(stream, tensors)
        sync(part)
        os.link(part, path)  # unlike a rename, it fails where somebody was faster
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)
    return error


def _write_members(stream: BinaryIO, tensors: Mapping[str, Pair]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for module in sorted(tensors):
            for part, array in zip(_PARTS, tensors[module], strict=True):
                # A fixed time: the same adapter is the same file.
                entry = zipfile.ZipInfo(f"{module}.{part}{_SUFFIX}", _EPOCH)
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _plain(array), allow_pickle=False)


def _plain(array: HostArray) -> npt.NDArray[Any]:
    if array.dtype == "F16":
        return np.frombuffer(array.data, "<f2").reshape(array.shape)
    return values_of(array)


def _folded(files: AdapterFiles, scale: float) -> tuple[Mapping[str, Pair], float]:
    """The tensors that do with ``scale`` what the files' do with theirs, and the error of that."""
    if not math.isfinite(scale) or scale == 0:
        raise AdapterFileError(f"B cannot be folded for the scale {scale:g}: it must not be 0.")
    factor = files.scale / scale
    folded: dict[str, Pair] = {}
    worst = 0.0
    for module, (a, b) in files.tensors.items():
        exact = values_of(b).astype(np.float64) * factor
        with np.errstate(over="ignore", under="ignore"):
            rounded = exact.astype(np.float32)
        if not np.isfinite(rounded).all():
            raise AdapterFileError(
                f"{module}: B times {factor:g} exceeds float32; fold for a larger scale."
            )
        some = exact != 0
        if some.any():
            worst = max(worst, float(np.abs(rounded[some] / exact[some] - 1).max()))
        folded[module] = (a, from_values(rounded))
    return folded, worst


def _members(file: Path) -> Iterator[tuple[str, HostArray]]:
    """Each array by name, one at a time, after all sizes have been checked."""
    raw = read_bytes(file, most=_MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            _check_entries(file, entries, len(raw))
            for entry in entries:
                yield entry.filename.removesuffix(_SUFFIX), _array(file, archive, entry)
    except _ZIP_REFUSALS as error:
        raise AdapterFileError(
            f"{file} is not a sound npz file ({error}): save the adapter again."
        ) from error


def _check_entries(file: Path, entries: list[zipfile.ZipInfo], packed: int) -> None:
    """Refuse archives that grow, before anything is unpacked, and doubtful members."""
    if len(entries) > MOST_TENSORS:
        raise AdapterFileError(
            f"{file} has {len(entries)} members, at most {MOST_TENSORS} are read. Give an "
            "adapter's own file."
        )
    most = min(_MOST_BYTES, _UNPACKED_FLOOR + _UNPACKED_RATIO * packed)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > most:
        raise AdapterFileError(
            f"{file} has {packed} bytes and unpacks to {unpacked}, at most {most} are read. Give "
            "an adapter's own file."
        )
    seen: set[str] = set()
    for entry in entries:
        if entry.filename in seen:
            raise AdapterFileError(f"{file}: {entry.filename!r} stands there twice; save it again.")
        seen.add(entry.filename)
        # Python unpacks the other kinds in one piece, whatever length was asked for.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise AdapterFileError(
                f"{file}: {entry.filename!r} is packed in a way that no npz has; save it with "
                "savez or savez_compressed."
            )
        if not entry.filename.endswith(_SUFFIX):
            raise AdapterFileError(
                f"{file}: {entry.filename!r} is no array. PyTorch's archives hold pickles and are "
                "never opened; save the adapter as safetensors or npz."
            )


def _array(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> HostArray:
    name = entry.filename.removesuffix(_SUFFIX)
    with archive.open(entry) as member:
        data = member.read(entry.file_size)
    stream = io.BytesIO(data)
    try:
        shape, dtype = _npy_header(stream)
    except _NUMPY_REFUSALS as error:
        raise AdapterFileError(
            f"{file}: {name!r} is not a sound array ({error}): save the adapter again."
        ) from error
    kind = _READ.get(dtype.newbyteorder("<").str if dtype.kind == "f" else dtype.str)
    if kind is None or dtype.fields is not None:
        pickled = " Python objects are never unpickled." if dtype.hasobject else ""
        raise AdapterFileError(
            f"{file}: {name!r} is {dtype}; float32, float16 and bfloat16 are served.{pickled} Save "
            "the adapter in one of them."
        )
    left = len(data) - stream.tell()
    if math.prod(shape) * dtype.itemsize != left:
        raise AdapterFileError(
            f"{file}: {name!r} claims the shape {shape} and has {left} bytes: save the adapter "
            "again."
        )
    stream.seek(0)
    values = np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_MOST_NPY_HEADER)
    if dtype.kind == "f":
        values = values.astype(dtype.newbyteorder("<"), copy=False)
    return HostArray(kind, shape, np.ascontiguousarray(values).tobytes())


def _npy_header(stream: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type as numpy reads them, of the two versions that numpy and MLX write here."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its version is {version}")
    shape, _, dtype = readers[version](stream, max_header_size=_MOST_NPY_HEADER)
    if any(type(each) is not int or each < 0 for each in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, dtype
