"""The figures that tell two forms of a model apart."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from adapters.base.scores import (
    MOST_TOKENS,
    Change,
    Scores,
    change,
    check_text,
    first_tokens,
    scores,
)
from adapters.errors import DataError

VOCABULARY = 7


def forward(tokens: mx.array) -> mx.array:
    """Logits that depend on the token alone, so that windows cannot matter."""
    ids = np.array(tokens)[..., None]
    return mx.array(np.sin(ids * 1.3 + np.arange(VOCABULARY)).astype(np.float32))


@pytest.mark.parametrize("length", [2, 256, 257, 258, 513, 600])
def test_every_token_but_the_first_is_scored_once(length: int) -> None:
    """As softmax has it, also where one window ends and the next begins."""
    tokens = [(5 * i + i // 3) % VOCABULARY for i in range(length)]
    found = scores(forward, tokens)
    logits = np.array(forward(mx.array([tokens[:-1]])))[0]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = expected[np.arange(length - 1), tokens[1:]]
    np.testing.assert_allclose(found.log_probabilities, wanted, atol=1e-5)
    assert list(found.best) == logits.argmax(-1).tolist()
    assert found.perplexity == pytest.approx(math.exp(-wanted.mean()), rel=1e-5)


def test_a_change_is_measured_token_by_token() -> None:
    """Largest and mean of the differences, the share of equal choices, the rise of perplexity."""
    before = Scores((-1.0, -2.0, -3.0, -2.0), (1, 2, 3, 4))
    after = Scores((-1.5, -2.0, -2.0, -2.5), (1, 2, 3, 5))
    found = change(before, after)
    assert (found.tokens, found.largest, found.mean, found.agreement) == (4, 1.0, 0.5, 0.75)
    assert found.perplexity_before == pytest.approx(math.exp(2))
    assert found.rise == pytest.approx(0)


def test_a_model_that_lost_its_mind_has_infinite_perplexity() -> None:
    """And no overflow."""
    lost = Scores((-1e6,), (0,))
    assert change(Scores((-1.0,), (0,)), lost) == Change(
        1, 999_999.0, 999_999.0, 1.0, math.e, math.inf
    )


def test_no_more_of_a_text_is_read_than_is_needed() -> None:
    """A long text costs as much as a short one."""
    read: list[int] = []

    def encode(text: str) -> list[int]:
        read.append(len(text))
        return [0] * (len(text) // 3)

    assert len(first_tokens(encode, "x" * 10**6)) == MOST_TOKENS
    assert read == [2 * MOST_TOKENS, 4 * MOST_TOKENS]
    assert first_tokens(encode, "xxx") == [0]


def test_the_text_that_comes_with_us_is_long_enough() -> None:
    """Half a thousand tokens need about two thousand characters."""
    assert len(check_text(None)) > 4 * MOST_TOKENS


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff", b"x" * (1 << 20) + b"x"])
def test_a_text_that_is_none_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Missing, empty, not UTF-8, or too large to be a page."""
    file = tmp_path / "text"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match="text"):
        check_text(file)


def test_a_text_of_one_token_is_refused() -> None:
    """There is nothing to predict."""
    with pytest.raises(DataError, match="fewer than two tokens"):
        scores(forward, [1])
