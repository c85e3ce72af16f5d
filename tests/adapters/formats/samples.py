"""Random adapters for property tests, and what can be compared of one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from adapters.formats.arrays import HostArray, values_of
from adapters.formats.mlx_lm import AdapterFiles
from adapters.shape import LoraShape

ATTENTION = tuple(f"self_attn.{letter}_proj" for letter in "qkvo")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def matrix(rows: int, columns: int, seed: int, dtype: str = "F32") -> HostArray:
    """Noise of a type; bfloat16 is float32 cut off."""
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype("<f4")
    if dtype == "F16":
        return HostArray(dtype, values.shape, values.astype("<f2").tobytes())
    if dtype == "BF16":
        return HostArray(dtype, values.shape, (values.view("<u4") >> 16).astype("<u2").tobytes())
    return HostArray(dtype, values.shape, values.tobytes())


@st.composite
def foreign_adapters(draw: st.DrawFn, *, types: tuple[str, ...] = ("F32", "F16")) -> AdapterFiles:
    """Adapters that every format can hold: all blocks, the keys that are there, no dropout."""
    rank = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32))
    scale = draw(st.floats(2**-7, 1e4, width=32))
    chosen = draw(
        st.sets(
            st.tuples(st.integers(0, 40), st.sampled_from(ATTENTION + MLP)), min_size=1, max_size=6
        )
    )
    tensors = {}
    for index, (block, key) in enumerate(sorted(chosen)):
        dtype = draw(st.sampled_from(types))
        rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        tensors[f"model.layers.{block}.{key}"] = (
            matrix(rows, rank, seed + index, dtype),
            matrix(rank, columns, seed + 100 + index, dtype),
        )
    keys = tuple(sorted({key for _, key in chosen}))
    ordered = {name: tensors[name] for name in sorted(tensors)}
    return AdapterFiles(LoraShape(rank, float(scale), -1, keys), ordered)


def as_plain(files: AdapterFiles) -> tuple[LoraShape, dict[str, Any]]:
    """Shape, names, types and bytes."""
    return files.shape, {
        module: [(part.dtype, part.shape, part.data) for part in pair]
        for module, pair in files.tensors.items()
    }


def update_of(files: AdapterFiles, module: str, x: np.ndarray) -> np.ndarray:
    """scale * (x @ A) @ B in float64: what our own format says that a module adds."""
    a, b = (values_of(part).astype(np.float64) for part in files.tensors[module])
    update: np.ndarray = files.scale * (x @ a) @ b
    return update
