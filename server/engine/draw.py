"""Drawing tokens from filtered distributions, one batched call for all rows.

A draw is the inverse of the cumulative distribution at one uniform number. That number is a hash of
(seed, position), computed on the host, so that a seeded row draws the same tokens whichever rows
stand beside it and wherever it stands among them.
"""

from __future__ import annotations

import mlx.core as mx

_BLOCK = 256
_CANDIDATES = 1024
_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 24 bits, a function of (seed, position) alone.

    The finaliser of SplitMix64 (Steele, Lea & Flood 2014) over the seed's stream.
    """
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & _MASK
    return ((z ^ (z >> 31)) >> 40) / (1 << 24)


def keep_top_k(logits: mx.array, top_k: mx.array, most: int) -> mx.array:
    """Logits (rows, vocab) with all but each row's ``top_k`` (rows, 1) largest at -inf.

    ``most`` is the largest of ``top_k``. Ties at the border stay, so the outcome does not depend
    on the order of a partition.
    """
    largest = mx.sort(mx.topk(logits, most, axis=-1), axis=-1)
    border = mx.take_along_axis(largest, most - top_k, axis=-1)
    return mx.where(logits >= border, logits, mx.array(-mx.inf, logits.dtype))


def keep_top_p(probabilities: mx.array, top_p: mx.array) -> mx.array:
    """Probabilities (rows, vocab) outside each row's nucleus set to zero; ``top_p`` is (rows, 1).

    The nucleus is the smallest set of most probable tokens whose mass reaches ``top_p`` of the
    total (Holtzman et al. 2020); ties at its border stay.
    """
    border = _nucleus_border(probabilities, top_p * probabilities.sum(axis=-1, keepdims=True))
    return mx.where(probabilities >= border, probabilities, mx.array(0, probabilities.dtype))


def _nucleus_border(probabilities: mx.array, mass: mx.array) -> mx.array:
    """The probability of the least probable token in the nucleus of ``mass``, (rows, 1).

    On a CPU sorting a whole vocabulary costs ten times a partition, and a thousand candidates
    nearly always hold the nucleus. Whether they do must be known before the next forward, hence
    the one read here; a device that sorts fast needs neither.
    """
    vocabulary = probabilities.shape[-1]
    if vocabulary > 4 * _CANDIDATES and mx.default_device() == mx.Device(mx.cpu):
        candidates = mx.topk(probabilities, _CANDIDATES, axis=-1)
        if mx.all(candidates.sum(axis=-1, keepdims=True) >= mass).item():
            return _border_of(candidates, mass)
    return _border_of(probabilities, mass)


def _border_of(probabilities: mx.array, mass: mx.array) -> mx.array:
    falling = -mx.sort(-probabilities, axis=-1)
    before = mx.cumsum(falling, axis=-1) - falling
    inside = mx.sum(before < mass, axis=-1, keepdims=True)
    return mx.take_along_axis(falling, mx.maximum(inside - 1, 0), axis=-1)


def keep_min_p(probabilities: mx.array, min_p: mx.array) -> mx.array:
    """Probabilities under ``min_p`` (rows, 1) times the row's largest set to zero."""
    border = min_p * probabilities.max(axis=-1, keepdims=True)
    return mx.where(probabilities >= border, probabilities, mx.array(0, probabilities.dtype))


def draw(weights: mx.array, uniforms: mx.array) -> mx.array:
    """Token ids (rows,) drawn in proportion to non-negative ``weights`` (rows, vocab).

    ``uniforms`` is (rows, 1) in [0, 1). Each row needs a positive weight; a token without weight
    is never drawn. The cumulative sum runs over blocks first and inside the block that was hit
    second, which reads the vocabulary twice instead of writing it.
    """
    rows, vocabulary = weights.shape
    pad = -vocabulary % _BLOCK
    blocks = mx.pad(weights, [(0, 0), (0, pad)]).reshape(rows, -1, _BLOCK)
    ends = mx.cumsum(blocks.sum(axis=-1), axis=-1)
    target = mx.minimum(uniforms * ends[:, -1:], ends[:, -1:] * (1 - 2**-22))
    block = mx.sum(ends <= target, axis=-1, keepdims=True)
    start = mx.where(block > 0, mx.take_along_axis(ends, mx.maximum(block - 1, 0), axis=-1), 0)
    inside = mx.cumsum(mx.take_along_axis(blocks, block[:, :, None], axis=1)[:, 0], axis=-1)
    rest = mx.minimum(target - start, inside[:, -1:] * (1 - 2**-22))
    return block[:, 0] * _BLOCK + mx.sum(inside <= rest, axis=-1)
