"""The equality rule holds what is equal and can fail in each of its ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.equality import (
    NEAR,
    TOLERANCE,
    Logprobs,
    assert_equal,
    assert_same_tokens,
    margins,
    solo_greedy,
    solo_logprobs,
)

POSITIONS, VOCABULARY = 200, 8


def clear_cut(*, positions: int = POSITIONS, margin: float = 1.0) -> Logprobs:
    """Log-probabilities whose best token is 0 everywhere, ``margin`` above token 1."""
    logits = np.full((positions, VOCABULARY), -5.0)
    logits[:, 0], logits[:, 1] = margin, 0.0
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits.astype(np.float32)


def tilted(reference: Logprobs, *positions: int, by: float) -> Logprobs:
    """The reference with token 1 raised at some positions."""
    candidate = reference.copy()
    candidate[list(positions), 1] += np.float32(by)
    return candidate


def test_an_array_equals_itself_and_its_rounding() -> None:
    """The noise of another order of additions is inside the rule."""
    reference = clear_cut()
    noise = np.random.default_rng(0).uniform(-1, 1, reference.shape) * 0.9 * TOLERANCE
    assert_equal(reference, reference)
    assert_equal(reference, (reference + noise).astype(np.float32))


def test_a_log_probability_beyond_the_tolerance_fails_and_is_located() -> None:
    """Also where the greedy token stays the same."""
    reference = clear_cut()
    with pytest.raises(AssertionError, match=r"differ by 2\.\d+e-03 at position 17, token 1"):
        assert_equal(reference, tilted(reference, 17, by=2.1e-3))


def test_another_token_passes_at_a_near_tie() -> None:
    """Either of two tokens within NEAR is right."""
    reference = clear_cut(margin=0.0005)
    assert_equal(reference[:100], tilted(reference[:100], 50, by=0.0009))


def test_another_token_beside_a_clear_margin_fails() -> None:
    """To swap two tokens that are not near, one has to move too far."""
    reference = clear_cut(margin=NEAR + 1e-4)
    candidate = tilted(reference, 3, by=0.5 * NEAR + 1e-4)
    candidate[3, 0] -= np.float32(0.5 * NEAR + 1e-4)
    assert candidate[3].argmax() == 1
    with pytest.raises(AssertionError, match="at position 3, token"):
        assert_equal(reference, candidate)


@pytest.mark.parametrize(("flips", "fine"), [(2, True), (3, False)])
def test_more_than_one_percent_of_near_ties_that_flip_fail(flips: int, fine: bool) -> None:
    """The exception is an exception: 2 of 200 positions are 1 %, 3 are more."""
    reference = clear_cut(margin=0.0005)
    candidate = tilted(reference, *range(flips), by=0.0009)
    if fine:
        assert_equal(reference, candidate)
    else:
        with pytest.raises(AssertionError, match="3 of 200 positions need the exception"):
            assert_equal(reference, candidate)


def test_arrays_that_cannot_be_compared_fail() -> None:
    """No comparison passes because there was none."""
    reference = clear_cut()
    spoiled = reference.copy()
    spoiled[0, 0] = np.nan
    with pytest.raises(AssertionError, match="candidate holds NaN"):
        assert_equal(reference, spoiled)
    with pytest.raises(AssertionError, match="reference holds NaN"):
        assert_equal(spoiled, reference)
    with pytest.raises(AssertionError, match=r"\(200, 8\) against \(199, 8\)"):
        assert_equal(reference, reference[:-1])
    with pytest.raises(AssertionError, match="float64, not float32"):
        assert_equal(reference, reference.astype(np.float64))
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_equal(reference[:0], reference[:0])
    with pytest.raises(AssertionError, match="vocabulary"):
        assert_equal(reference[0], reference[0])


def test_a_forbidden_token_is_equal_to_a_forbidden_token_alone() -> None:
    """Minus infinity agrees with itself and with nothing else."""
    reference = clear_cut()
    reference[:, 5] = -np.inf
    assert_equal(reference, reference.copy())
    with pytest.raises(AssertionError, match="differ by inf"):
        assert_equal(reference, clear_cut())


def test_the_same_rows_of_tokens_pass() -> None:
    """Rows may have different lengths."""
    rows = [[1, 2, 3], [4]]
    assert_same_tokens(rows, rows, [[1.0, 1.0, 1.0], [1.0]])


def test_a_row_that_leaves_at_a_clear_margin_fails_and_is_located() -> None:
    """The message says which row, where, and how clear it was."""
    with pytest.raises(AssertionError, match=r"row 1, position 2: token 9, .* 6.*1\.00e\+00 apart"):
        assert_same_tokens([[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 5, 9]], [[1.0] * 3, [1.0] * 3])


def test_a_row_may_leave_at_a_near_tie_and_then_go_its_own_way() -> None:
    """What follows a near tie, its length included, is not compared."""
    reference = [list(range(100)), list(range(50))]
    candidate = [list(range(100)), [*range(30), 7, 7]]
    gaps = [[1.0] * 100, [1.0] * 50]
    gaps[1][30] = 0.001
    assert_same_tokens(reference, candidate, gaps)


def test_rows_that_leave_too_often_fail() -> None:
    """Of the positions compared, at most 1 % may need the exception."""
    reference, gaps = [[1] * 60], [[1.0] * 59 + [0.001]]
    with pytest.raises(AssertionError, match="1 of 60 positions"):
        assert_same_tokens(reference, [[1] * 59 + [2]], gaps)


def test_a_row_that_is_cut_short_or_missing_fails() -> None:
    """Equal as far as it goes is not equal."""
    with pytest.raises(AssertionError, match="row 0: 2 tokens, the reference has 3"):
        assert_same_tokens([[1, 2, 3]], [[1, 2]], [[1.0] * 3])
    with pytest.raises(AssertionError, match="1 rows against 0"):
        assert_same_tokens([[1]], [], [[1.0]])
    with pytest.raises(AssertionError, match="row 0: 1 margins, 2 tokens"):
        assert_same_tokens([[1, 2]], [[1, 2]], [[1.0]])
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_same_tokens([[]], [[]], [[]])


def test_the_reference_agrees_with_itself_cached_and_whole(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Greedy decoding with a cache follows the whole forward's best tokens and margins."""
    prompt = [11, 22, 33, 44]
    for adapter in (None, *tiny_adapters.values()):
        solo = solo_greedy(tiny_model, adapter, prompt, 40)
        whole = solo_logprobs(tiny_model, adapter, [*prompt, *solo.tokens[:-1]])[3:]
        assert_same_tokens([solo.tokens], [whole.argmax(axis=1).tolist()], [solo.margins])
        np.testing.assert_allclose(margins(whole), solo.margins, atol=TOLERANCE)


def test_an_adapter_is_not_equal_to_its_base(
    tiny_model: Path, tiny_adapters: dict[str, Path]
) -> None:
    """The rule tells a base that leaked into an adapter's row, for each adapter."""
    tokens = list(range(3, 60))
    base = solo_logprobs(tiny_model, None, tokens)
    for adapter in tiny_adapters.values():
        with pytest.raises(AssertionError, match="differ by"):
            assert_equal(base, solo_logprobs(tiny_model, adapter, tokens))
