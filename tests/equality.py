"""What "equal" means where the shape of a product changes, and the reference to be equal to.

Equal: float32 log-probabilities within 1e-3, and the same greedy tokens, except from a position
where the reference's two best lie within 2e-3. At most 1 % of the positions may need the exception.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import dequantize_model

TOLERANCE = 1e-3
NEAR = 2 * TOLERANCE
MOST_EXCEPTIONS = 0.01

Logprobs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Solo:
    """A greedy continuation by the reference.

    ``margins[i]`` is how far ``tokens[i]``'s log-probability lies above the second best.
    """

    tokens: tuple[int, ...]
    margins: tuple[float, ...]


def assert_equal(reference: Logprobs, candidate: Logprobs) -> None:
    """Hold (positions, vocabulary) log-probabilities to the reference's, and their best tokens.

    Both have seen the same tokens before each position. Where no log-probability moved by more
    than TOLERANCE, the best token can change only if the two best lie within NEAR, twice that.
    """
    for name, array in (("reference", reference), ("candidate", candidate)):
        assert array.dtype == np.float32, f"the {name} is {array.dtype}, not float32"
        assert not np.isnan(array).any(), f"the {name} holds NaN"
    assert reference.ndim == 2, f"(positions, vocabulary) wanted, not {reference.shape}"
    assert reference.size, "there is nothing to compare"
    assert reference.shape == candidate.shape, f"{reference.shape} against {candidate.shape}"
    # Where both are -inf (a forbidden token) they agree, and the difference would be NaN.
    with np.errstate(invalid="ignore"):
        apart = np.where(reference == candidate, 0, np.abs(reference - candidate))
    worst = np.unravel_index(int(apart.argmax()), apart.shape)
    assert apart[worst] <= TOLERANCE, (
        f"log-probabilities differ by {apart[worst]:.2e} at position {worst[0]}, token {worst[1]}: "
        f"{reference[worst]:.6f} against {candidate[worst]:.6f}"
    )
    changed = candidate.argmax(axis=1) != reference.argmax(axis=1)
    _assert_few(int(changed.sum()), len(reference))


def assert_same_tokens(
    reference_tokens: Sequence[Sequence[int]],
    candidate_tokens: Sequence[Sequence[int]],
    reference_margins: Sequence[Sequence[float]],
) -> None:
    """Hold greedy rows to the reference's where only tokens can be seen.

    A row may leave its reference where the reference's two best lie within NEAR. What follows in
    that row cannot be compared and counts neither way, not even its length.
    """
    assert len(reference_tokens) == len(candidate_tokens) == len(reference_margins), (
        f"{len(reference_tokens)} rows against {len(candidate_tokens)}"
    )
    compared = exceptions = 0
    for row, (theirs, ours, gaps) in enumerate(
        zip(reference_tokens, candidate_tokens, reference_margins, strict=True)
    ):
        assert len(gaps) == len(theirs), f"row {row}: {len(gaps)} margins, {len(theirs)} tokens"
        split = _first_difference(theirs, ours)
        if split is None:
            assert len(theirs) == len(ours), (
                f"row {row}: {len(ours)} tokens, the reference has {len(theirs)}"
            )
            compared += len(theirs)
            continue
        assert gaps[split] <= NEAR, (
            f"row {row}, position {split}: token {ours[split]}, the reference has {theirs[split]} "
            f"and its two best lie {gaps[split]:.2e} apart"
        )
        compared += split + 1
        exceptions += 1
    assert compared, "there is nothing to compare"
    _assert_few(exceptions, compared)


def margins(logprobs: Logprobs) -> npt.NDArray[np.float32]:
    """How far the best lies above the second best, by position."""
    best = np.partition(logprobs, -2, axis=1)
    return np.asarray(best[:, -1] - best[:, -2], dtype=np.float32)


def solo_logprobs(model_dir: Path, adapter_dir: Path | None, tokens: Sequence[int]) -> Logprobs:
    """Plain mlx-lm in float32, one row, no cache: (len(tokens), vocabulary) log-probabilities.

    Row ``i`` is the distribution after ``tokens[: i + 1]``.
    """
    logits = _load(model_dir, adapter_dir)(mx.array([list(tokens)]))[0].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def solo_greedy(
    model_dir: Path,
    adapter_dir: Path | None,
    prompt: Sequence[int],
    count: int,
    *,
    forbidden: Collection[int] = (),
) -> Solo:
    """``count`` greedy tokens after ``prompt`` by plain mlx-lm in float32; end tokens go on.

    Those of ``forbidden`` are never taken.
    """
    model = _load(model_dir, adapter_dir)
    cache = make_prompt_cache(model)
    step = list(prompt)
    tokens: list[int] = []
    gaps: list[float] = []
    for _ in range(count):
        logits = np.array(model(mx.array([step]), cache=cache)[0, -1:].astype(mx.float32))
        logits[:, list(forbidden)] = -np.inf
        step = [int(logits.argmax())]
        tokens += step
        gaps.append(float(margins(logits)[0]))
    return Solo(tuple(tokens), tuple(gaps))


@functools.lru_cache(maxsize=8)
def _load(model_dir: Path, adapter_dir: Path | None) -> Any:
    """A model of mlx-lm's own making, in float32: exact, and fast enough on a CPU.

    The cast comes first: dequantized 16-bit scales would round the weights to 16 bits.
    """
    adapter = None if adapter_dir is None else str(adapter_dir)
    model: Any = mlx_lm.load(str(model_dir), adapter_path=adapter)[0]
    model.set_dtype(mx.float32)
    dequantize_model(model)
    model.eval()
    mx.eval(model.parameters())
    return model


def _first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), None)


def _assert_few(exceptions: int, positions: int) -> None:
    assert exceptions <= MOST_EXCEPTIONS * positions, (
        f"{exceptions} of {positions} positions need the exception for near ties, at most "
        f"{MOST_EXCEPTIONS:.0%} may"
    )
