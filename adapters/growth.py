"""The LoRA shape of a new stage: inherited, or grown where the function stays what it was.

A larger rank adds columns of A whose rows of B are zero; more blocks or keys add modules whose B is
zero. Both leave every output unchanged. The scale multiplies all of it, so it never changes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from adapters.errors import AdapterMismatch, ShapeContradiction
from adapters.lineage import LoraRequest
from adapters.shape import LoraShape, Target

DEFAULT_SHAPE = LoraShape(rank=8, scale=2.0, num_layers=16)
"""A chain's first stage, where nothing else is asked for: every linear layer of 16 blocks."""

_MOST_RANK = 4096
_NAMED = 5


def resolve_shape(
    parent: LoraShape | None, request: LoraRequest | None, defaults: LoraShape = DEFAULT_SHAPE
) -> LoraShape:
    """The shape of a stage: ``request``, completed by ``parent``'s or, without one, ``defaults``.

    Raises ShapeContradiction with every contradiction in words: the scale never changes, rank,
    blocks and keys only grow. Dropout may change.
    """
    start = defaults if parent is None else parent
    asked = LoraRequest() if request is None else request
    shape = LoraShape(
        rank=start.rank if asked.rank is None else asked.rank,
        scale=start.scale if asked.scale is None else asked.scale,
        num_layers=start.num_layers if asked.num_layers is None else asked.num_layers,
        keys=start.keys if asked.keys is None else _unique(asked.keys),
        dropout=start.dropout if asked.dropout is None else asked.dropout,
    )
    if wrong := _impossible(shape):
        raise ShapeContradiction(
            f"The LoRA shape is not possible: {'; '.join(wrong)}.", param="lora"
        )
    if parent is None:
        return shape
    if wrong := shrinkage(parent, shape):
        raise ShapeContradiction(
            f"The LoRA shape contradicts the chain's ({parent.describe()}): {'; '.join(wrong)}. "
            "Leave those fields out to keep the chain's, or start another chain.",
            param="lora",
        )
    return shape


def shrinkage(parent: LoraShape, shape: LoraShape) -> list[str]:
    """What of ``parent`` is lost or changed in ``shape``, in words; empty where it only grew."""
    found = []
    if shape.scale != parent.scale:
        found.append(f"scale is {parent.scale:g} and never changes, not {shape.scale:g}")
    if shape.rank < parent.rank:
        found.append(f"rank is {parent.rank} and may only grow, not {shape.rank}")
    if _blocks(shape) < _blocks(parent):
        all_blocks = "all" if parent.num_layers < 1 else f"the last {parent.num_layers}"
        found.append(
            f"num_layers: {all_blocks} blocks are adapted and may only become more, not "
            f"{shape.num_layers}"
        )
    if parent.keys is None and shape.keys is not None:
        found.append("keys: every linear layer of a block is adapted, a list would leave some out")
    if parent.keys is not None and shape.keys is not None:
        missing = [key for key in parent.keys if key not in shape.keys]
        if missing:
            found.append(f"keys leaves out {_listed(missing)}, which the chain adapts")
    return found


def select_targets(linears: Iterable[Target], shape: LoraShape) -> tuple[Target, ...]:
    """The modules of a base that ``shape`` adapts, by path and with its rank.

    ``linears`` are all linear layers of the base, whatever rank they have. Raises AdapterMismatch
    where a key matches no layer.
    """
    layers = sorted(
        (dataclasses.replace(each, rank=shape.rank) for each in linears),
        key=lambda each: each.path,
    )
    blocks = 1 + max((each.block for each in layers if each.block is not None), default=-1)
    # More blocks than there are mean all, as in mlx-lm.
    first = max(0, blocks - shape.num_layers) if shape.num_layers > 0 else 0
    keys = None if shape.keys is None else set(shape.keys)
    if keys is not None:
        known = {name for each in layers for name in (each.key, each.path)}
        if unknown := sorted(keys - known):
            near = sorted({each.key for each in layers if each.block is not None})
            raise AdapterMismatch(
                f"No linear layer of the base is called {_listed(unknown)}; a block has "
                f"{', '.join(near)}.",
                param="lora",
            )
    chosen = tuple(each for each in layers if _is_chosen(each, first, keys))
    if not chosen:
        raise AdapterMismatch(
            "The LoRA shape adapts no linear layer of the base: give keys that lie in its blocks.",
            param="lora",
        )
    return chosen


def _is_chosen(target: Target, first: int, keys: set[str] | None) -> bool:
    if keys is None:
        return target.block is not None and target.block >= first
    if target.path in keys:
        return True
    return target.key in keys and target.block is not None and target.block >= first


def _blocks(shape: LoraShape) -> float:
    return math.inf if shape.num_layers < 1 else shape.num_layers


def _unique(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))


def _impossible(shape: LoraShape) -> list[str]:
    found = []
    if not 1 <= shape.rank <= _MOST_RANK:
        found.append(f"rank {shape.rank} is not within 1 and {_MOST_RANK}")
    if not math.isfinite(shape.scale) or shape.scale == 0:
        found.append(f"scale {shape.scale:g} must be finite and not 0")
    if shape.num_layers < -1 or shape.num_layers == 0:
        found.append(f"num_layers {shape.num_layers} must be at least 1, or -1 for all blocks")
    if not 0 <= shape.dropout < 1:
        found.append(f"dropout {shape.dropout:g} must be at least 0 and under 1")
    if shape.keys == ():
        found.append("keys is empty; leave it out for every linear layer")
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more
