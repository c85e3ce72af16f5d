"""The content id of a revision."""

from __future__ import annotations

import hashlib
import json

from adapters.formats.mlx_lm import AdapterFiles

_FORMAT = "chainlora revision 1"


def revision_id(files: AdapterFiles) -> str:
    """SHA-256, in 64 hex digits, over scale and tensors (names, types, shapes, bytes).

    What the outputs depend on, and nothing else: the same adapter under two names, with another
    dropout in its configuration, or with its tensors stored in another order, has one id.
    """
    digest = hashlib.sha256()
    header = {
        "format": _FORMAT,
        "scale": float(files.scale),
        "tensors": [
            [module, [[part.dtype, list(part.shape)] for part in files.tensors[module]]]
            for module in sorted(files.tensors)
        ],
    }
    digest.update(json.dumps(header, separators=(",", ":")).encode())
    for module in sorted(files.tensors):
        for part in files.tensors[module]:
            digest.update(part.data)
    return digest.hexdigest()
