"""How much device memory a stage takes beside serving, before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapters.growth import select_targets
from adapters.lineage import TrainSettings
from adapters.shape import LoraShape, Target

_FLOAT32 = 4
_LOGITS = 1 << 21
_LEAST_ROWS, _MOST_ROWS = 16, 1024

# Counted on the llama block with every linear layer adapted: what the backward pass of one block
# holds at its peak, in multiples of what its linear layers read and write; the same for attention
# scores and for the logits of a chunk.
_BLOCK_COPIES, _SCORE_COPIES, _LOGIT_COPIES = 3, 3, 4
_UPDATE_COPIES = 9


def head_rows(vocabulary: int) -> int:
    """Rows of the head that are computed at once; a function of the vocabulary alone."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, _LOGITS // vocabulary))


def estimate(
    config: Mapping[str, Any],
    linears: Iterable[Target],
    shape: LoraShape,
    settings: TrainSettings,
    *,
    longest_row: int,
    itemsize: int = 4,
) -> int:
    """Bytes that training takes at its peak, the base not counted; good to a factor of 2.

    ``config`` is the base's, ``linears`` are all its linear layers, ``longest_row`` is a number of
    tokens, ``itemsize`` that of the activations. The sum of

    * parameters, gradients and two moments: 4 P, with P = 4 bytes * sum of rank * (in + out);
    * the larger of the optimizer step's copies, 5 P, and of one micro-batch of T tokens:
      the states between blocks from the lowest adapted one up, (blocks + 1) * T * width; the
      working set of one block's backward pass, T * (3 * sum of (in + out) of its linear layers
      + 3 * heads * longest row); or, in place of that, the head's chunk, 4 * rows * vocabulary.

    Not in it: matrices that a base without kept float32 ones dequantizes in each product, which
    serving needs as well; and the one piece of a model that cannot be sliced.
    """
    linears = tuple(linears)
    targets = select_targets(linears, shape)
    parameters = _FLOAT32 * sum(
        shape.rank * (each.in_features + each.out_features) for each in targets
    )
    rows = min(max(settings.micro_batch_tokens // max(longest_row, 1), 1), settings.batch_size)
    tokens = rows * longest_row
    width, heads, vocabulary = (
        _number(config, name) for name in ("hidden_size", "num_attention_heads", "vocab_size")
    )
    by_block: dict[int, int] = {}
    for each in linears:
        if each.block is not None:
            features = each.in_features + each.out_features
            by_block[each.block] = by_block.get(each.block, 0) + features
    count = 1 + max(by_block, default=-1)
    lowest = min((each.block for each in targets if each.block is not None), default=count)
    between = (count - lowest + 1) * tokens * width
    block = tokens * (
        _BLOCK_COPIES * max(by_block.values(), default=0) + _SCORE_COPIES * heads * longest_row
    )
    head = _LOGIT_COPIES * min(head_rows(max(vocabulary, 1)), tokens) * vocabulary
    batch = itemsize * (between + block)
    batch = max(batch, itemsize * between + _FLOAT32 * head)
    return 4 * parameters + max((_UPDATE_COPIES - 4) * parameters, batch)


def _number(config: Mapping[str, Any], name: str) -> int:
    """A field of the configuration, or of the text part of a model that sees as well."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and isinstance(part.get(name), int):
            return int(part[name])
    return 0
