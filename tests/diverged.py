"""An adapter whose training diverged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter


def write_diverged(path: Path, sound: Path) -> None:
    """``sound`` with every value at 1e30, whose square float32 cannot hold."""
    files = read_adapter(sound)
    tensors = {module: (_huge(a), _huge(b)) for module, (a, b) in files.tensors.items()}
    write_adapter(path, AdapterFiles(files.shape, tensors))


def _huge(array: HostArray) -> HostArray:
    return HostArray("F32", array.shape, np.full(array.shape, 1e30, np.float32).tobytes())
