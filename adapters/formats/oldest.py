"""The names of the first LoRA files of mlx-examples, from before models came from Hugging Face.

They are Meta's own (``layers.0.attention.wq``), and so is the order of the outputs of wq and wk:
the rotary embedding pairs neighbours there, and the two halves of a head in Hugging Face's models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray
from adapters.formats.pairs import Pair

_OLDEST = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.(attention|feed_forward)\.(w[qkvo123])")
_MODULES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}


@dataclass(frozen=True, slots=True)
class Heads:
    """How a base lays out its attention: what the oldest files must be turned into.

    ``interleaved``: its rotary embedding pairs neighbours, as those files do, so nothing is turned.
    """

    query: int
    key_value: int
    interleaved: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Heads | None:
        """Those of a model's ``config.json``, None where it does not say."""
        config = {**config, **config.get("text_config", {})}
        query = config.get("num_attention_heads")
        key_value = config.get("num_key_value_heads") or query
        if type(query) is not int or type(key_value) is not int or min(query, key_value) < 1:
            return None
        return cls(query, key_value, bool(config.get("rope_traditional", False)))


def with_todays_names(
    file: Path, found: Mapping[str, Pair], heads: Heads | None
) -> dict[str, Pair]:
    """``found`` under today's module paths; what is called so already stays as it is.

    Raises AdapterFileError for a mixture of both, and where ``heads`` is needed and None.
    """
    matches = {module: _OLDEST.fullmatch(module) for module in found}
    if not any(matches.values()):
        return dict(found)
    named: dict[str, Pair] = {}
    for module, pair in found.items():
        match = matches[module]
        if match is None:
            raise AdapterFileError(
                f"{file} mixes the names of two ages: {module!r} beside those of the oldest form "
                "(layers.0.attention.wq). Give the file of one training run."
            )
        block, part, weight = match.groups()
        key = _MODULES.get(f"{part}.{weight}")
        if key is None:
            raise AdapterFileError(f"{file}: no module of the oldest form is called {module!r}.")
        if weight in ("wq", "wk"):
            pair = (pair[0], _turned(file, module, pair[1], weight, heads))
        named[f"model.layers.{block}.{key}"] = pair
    return named


def _turned(file: Path, module: str, b: HostArray, weight: str, heads: Heads | None) -> HostArray:
    """B with its outputs in halves per head, as the rotary embedding of the base pairs them.

    In the files of that time they are interleaved: feature 2i belongs with 2i + 1.
    """
    if heads is None:
        raise AdapterFileError(
            f"{file} has the oldest names ({module}): how many heads the base has must be known to "
            "read it. Import it into a server that has the base."
        )
    if heads.interleaved:
        return b
    count = heads.query if weight == "wq" else heads.key_value
    rank, outputs = b.shape
    if outputs % (2 * count):
        raise AdapterFileError(
            f"{file}: {module} has {outputs} outputs, which {count} heads of an even size cannot "
            "share. Import it into a server with the base that it was trained on."
        )
    width = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[b.dtype]
    raw = np.frombuffer(b.data, width).reshape(rank, count, outputs // count // 2, 2)
    return HostArray(b.dtype, b.shape, np.ascontiguousarray(raw.swapaxes(2, 3)).tobytes())
