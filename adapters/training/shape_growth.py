"""The adapter that a stage starts from: new, or its parent's, grown without changing the function.

Random columns of A are a function of (seed, stage, module) alone, made on the host: another device,
or another set of modules beside, gives the same ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from adapters.errors import AdapterMismatch, ShapeContradiction
from adapters.formats.arrays import from_values, values_of
from adapters.formats.mlx_lm import AdapterFiles
from adapters.formats.pairs import Pair
from adapters.growth import resolve_shape, select_targets, shrinkage
from adapters.shape import LoraShape, Target

__all__ = ["grow", "initial_adapter", "resolve_shape"]

Matrix = npt.NDArray[np.float32]


def initial_adapter(
    linears: Iterable[Target], shape: LoraShape, *, seed: int, stage: int
) -> AdapterFiles:
    """A first stage's adapter: A uniform within 1 / sqrt(in), as mlx-lm draws it, and B zero.

    ``linears`` are all linear layers of the base. Raises AdapterMismatch where ``shape`` asks for
    modules that are not there.
    """
    name = f"{seed} {stage}"
    chosen = select_targets(linears, shape)
    return AdapterFiles(shape, {each.path: _new(each, shape.rank, name) for each in chosen})


def grow(
    files: AdapterFiles, linears: Iterable[Target], shape: LoraShape, *, seed: int, stage: int
) -> AdapterFiles:
    """``files`` in float32 with ``shape``, its outputs what they were.

    A gets random columns whose rows of B are zero, and each module that ``shape`` adapts and that
    has no tensors yet gets new ones with B zero. ``linears`` are all linear layers of the base.
    Raises ShapeContradiction where ``shape`` is not a growth of the files' own, AdapterMismatch
    where the files or ``shape`` do not fit the base.
    """
    if wrong := shrinkage(files.shape, shape):
        raise ShapeContradiction(f"An adapter may only grow: {'; '.join(wrong)}.", param="lora")
    name = f"{seed} {stage}"
    linears = tuple(linears)
    features = {each.path: (each.in_features, each.out_features) for each in linears}
    grown: dict[str, Pair] = {
        target.path: _new(target, shape.rank, name)
        for target in select_targets(linears, shape)
        if target.path not in files.tensors
    }
    for target in files.targets:
        own = (target.in_features, target.out_features)
        if features.get(target.path) != own:
            raise AdapterMismatch(
                f"{target.path} has (input, output) features {own} in the adapter and "
                f"{features.get(target.path, 'no such layer')} in the base. Use the base that the "
                "adapter was made for."
            )
        grown[target.path] = _widened(files.tensors[target.path], target, shape.rank, name)
    return AdapterFiles(shape, {path: grown[path] for path in sorted(grown)})


def _new(target: Target, rank: int, draw: str) -> Pair:
    return from_values(_columns(target, 0, rank, draw)), from_values(
        _zeros(rank, target.out_features)
    )


def _widened(pair: Pair, target: Target, rank: int, draw: str) -> Pair:
    a, b = values_of(pair[0]), values_of(pair[1])
    if more := rank - target.rank:
        a = np.concatenate([a, _columns(target, target.rank, more, draw)], axis=1)
        b = np.concatenate([b, _zeros(more, target.out_features)], axis=0)
    return from_values(a), from_values(b)


def _columns(target: Target, present: int, count: int, name: str) -> Matrix:
    """(in, count) random columns that follow ``present`` earlier ones."""
    digest = hashlib.sha256(f"chainlora A {name} {present} {target.path}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    bound = 1 / math.sqrt(target.in_features)
    return draw.uniform(-bound, bound, (target.in_features, count)).astype(np.float32)


def _zeros(rank: int, outputs: int) -> Matrix:
    return np.zeros((rank, outputs), np.float32)
