"""The training tree: a second tree of modules over the very same base arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from adapters.errors import AdapterMismatch
from adapters.formats.arrays import from_mlx, to_mlx
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora.router import RoutedLinear
from adapters.lora.targets import linear_shape
from adapters.shape import LoraShape
from adapters.training.layers import DropoutSeed, LoraLinear

PARTS = ("lora_a", "lora_b")

Parameters = dict[str, mx.array]
"""Trainable arrays by name: module path, a dot, ``lora_a`` or ``lora_b``."""


class TrainingTree:
    """A model that shares every array of ``base`` and has LoRA layers where ``files`` has tensors.

    Device thread only. ``base`` is read, never changed: its routed layers are passed by, its
    modules are copied, its arrays are not. The trainable parameters are A and B in float32 and
    nothing else. Raises AdapterMismatch where a tensor fits no module.
    """

    def __init__(self, base: Module, files: AdapterFiles) -> None:
        self.model: Any = _copied(base, {})
        self.model.freeze()
        self.model.train()
        self.shape: LoraShape = files.shape
        self.dropout = DropoutSeed()
        self._layers: dict[str, LoraLinear] = {}
        for index, path in enumerate(sorted(files.tensors)):
            self._layers[path] = self._adapt(path, index, files)
        mx.eval(self.parameters())

    def parameters(self) -> Parameters:
        """The trainable arrays, in the order of their names."""
        return {
            f"{path}.{part}": layer[part] for path, layer in self._layers.items() for part in PARTS
        }

    def replace(self, parameters: Mapping[str, mx.array]) -> None:
        """Put arrays in the place of trainable ones."""
        for name, array in parameters.items():
            path, _, part = name.rpartition(".")
            self._layers[path][part] = array

    @contextmanager
    def using(self, parameters: Mapping[str, mx.array]) -> Iterator[None]:
        """Forwards inside compute with these arrays, so that a gradient can reach them."""
        present = self.parameters()
        self.replace(parameters)
        try:
            yield
        finally:
            self.replace({name: present[name] for name in parameters})

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Forwards inside are those of serving: evaluation mode, nothing dropped."""
        at, self.dropout.at = self.dropout.at, None
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()
            self.dropout.at = at

    def files(self) -> AdapterFiles:
        """A and B as they are now, float32 in host memory; the scale stays apart."""
        tensors = {
            path: (from_mlx(layer["lora_a"]), from_mlx(layer["lora_b"]))
            for path, layer in self._layers.items()
        }
        return AdapterFiles(self.shape, tensors)

    def _adapt(self, path: str, index: int, files: AdapterFiles) -> LoraLinear:
        linear = _at(self.model, path)
        features = linear_shape(linear)
        a, b = files.tensors[path]
        if features is None:
            raise AdapterMismatch(
                f"{path} is no linear layer of this base, so the adapter cannot be trained on it. "
                "Use the base that the adapter was made for."
            )
        if (a.shape[0], b.shape[1]) != features or a.shape[1] != b.shape[0]:
            raise AdapterMismatch(
                f"{path} has {features[0]} input and {features[1]} output features, but lora_a is "
                f"{a.shape} and lora_b is {b.shape}."
            )
        layer = LoraLinear(
            linear,
            scale=self.shape.scale,
            dropout=self.shape.dropout,
            index=index,
            seed=self.dropout,
        )
        for part, array in zip(PARTS, (a, b), strict=True):
            layer[part] = to_mlx(array).astype(mx.float32)
        layer.train()
        _put(self.model, path, layer)
        return layer


def _copied(value: Any, made: dict[int, Any]) -> Any:
    """Modules and containers anew, a module that stands in two places once; all else shared."""
    if isinstance(value, RoutedLinear):
        value = value.linear
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, Module):
        twin = type(value).__new__(type(value))
        made[id(value)] = twin
        vars(twin).update({name: _copied(each, made) for name, each in vars(value).items()})
        # Past the module's own __setattr__, which would move or drop entries.
        dict.update(twin, {name: _copied(each, made) for name, each in value.items()})
        return twin
    if isinstance(value, set):
        return set(value)
    if type(value) is dict:
        return {name: _copied(each, made) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(each, made) for each in value)
    return value


def _at(model: Any, path: str) -> Any:
    found = model
    for part in path.split("."):
        if isinstance(found, list):
            found = found[int(part)] if part.isdigit() and int(part) < len(found) else None
        else:
            found = found.get(part) if isinstance(found, dict) else None

    return found


def _put(model: Any, path: str, layer: Module) -> None:
    holder, _, last = path.rpartition(".")
    parent = _at(model, holder) if holder else model
    if isinstance(parent, list):
        parent[int(last)] = layer
    else:
        setattr(parent, last, layer)
