"""An adapter whose training diverged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter

_RANK, _HUGE = 512, 3e4


def write_diverged(path: Path, sound: Path) -> None:
    """The MLP modules of ``sound`` with a high rank and values as large as an adapter's may be.

    Each is finite, and a 16-bit base could hold it. Gate times up, taken down again, is more than
    float32 can. The outputs' signs alternate, so that some gates open whatever comes in.
    """
    files = read_adapter(sound)
    tensors = {
        module: (_huge(a.shape[0], _RANK), _huge(_RANK, b.shape[1], 1 / files.shape.scale))
        for module, (a, b) in files.tensors.items()
    }
    write_adapter(path, AdapterFiles(replace(files.shape, rank=_RANK), tensors))


def _huge(rows: int, columns: int, factor: float | None = None) -> HostArray:
    values = np.full((rows, columns), _HUGE, np.float32)
    if factor is not None:
        values[:, ::2] *= factor
        values[:, 1::2] *= -factor
    return HostArray("F32", values.shape, values.tobytes())
