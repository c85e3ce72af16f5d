"""The batched sampler: each row gets what it asked for, beside rows that asked for other things."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from server.core.messages import Sampling
from server.engine.sampling import NO_TOKEN, BatchSampler, SamplingRow

VOCABULARY = 300
GREEDY = Sampling(seed=0, temperature=0)


def logits_of(rows: int, seed: int = 0) -> np.ndarray:
    """Random logits (rows, vocabulary)."""
    return np.random.default_rng(seed).normal(size=(rows, VOCABULARY)).astype(np.float32) * 3


def sample(
    settings: list[Sampling],
    logits: np.ndarray,
    *,
    generated: list[list[int]] | None = None,
    prompts: list[list[int]] | None = None,
    positions: list[int] | None = None,
) -> list[int]:
    """One step of a fresh sampler."""
    count = len(settings)
    rows = [
        SamplingRow(each, (prompts or [[]] * count)[i], (generated or [[]] * count)[i])
        for i, each in enumerate(settings)
    ]
    sampler = BatchSampler(rows, VOCABULARY, mx.array([-1] * count))
    tokens, _ = sampler.sample(mx.array(logits), positions or [0] * count)
    return [int(token) for token in np.array(tokens)]


MIXED = [
    GREEDY,
    Sampling(seed=5, temperature=1.0),
    Sampling(seed=6, temperature=0.7, top_p=0.8),
    Sampling(seed=7, temperature=1.5, top_k=5),
    Sampling(seed=8, temperature=1.2, min_p=0.2),
    Sampling(seed=9, temperature=1.0, presence_penalty=1.5, frequency_penalty=1.0),
    Sampling(seed=10, temperature=0, repetition_penalty=1.8),
    Sampling(seed=11, temperature=0, logit_bias=((17, 100.0),)),
]


@pytest.mark.parametrize("index", range(len(MIXED)))
def test_a_row_draws_the_same_token_alone_and_in_a_mixed_batch(index: int) -> None:
    """Neither the neighbours' settings nor the place change what a row draws."""
    logits = logits_of(len(MIXED))
    history = [[3, 3, 9, index]] * len(MIXED)
    positions = list(range(4, 4 + len(MIXED)))
    together = sample(MIXED, logits, generated=history, prompts=history, positions=positions)
    alone = sample(
        [MIXED[index]],
        logits[index : index + 1],
        generated=[history[index]],
        prompts=[history[index]],
        positions=[positions[index]],
    )
    assert together[index] == alone[0]


def test_temperature_zero_takes_the_best_token() -> None:
    """Greedy is the argmax of the logits."""
    logits = logits_of(2)
    assert sample([GREEDY, GREEDY], logits) == logits.argmax(-1).tolist()


def test_a_bias_of_one_hundred_forces_and_of_minus_one_hundred_bans() -> None:
    """OpenAI's reference: such values select or exclude a token."""
    logits = logits_of(2)
    best = int(logits[1].argmax())
    forced = Sampling(seed=0, temperature=0, logit_bias=((42, 100.0),))
    banned = Sampling(seed=0, temperature=0, logit_bias=((best, -100.0),))
    tokens = sample([forced, banned], logits)
    assert tokens[0] == 42
    assert tokens[1] == int(np.argsort(logits[1])[-2])


def test_presence_and_frequency_follow_the_published_formula() -> None:
    """``logit - count * frequency - (count > 0) * presence`` over generated tokens only."""
    logits = np.zeros((1, VOCABULARY), np.float32)
    logits[0, [1, 2, 3]] = [5.0, 4.9, 4.0]
    settings = Sampling(seed=0, temperature=0, presence_penalty=0.5, frequency_penalty=0.3)
    assert sample([settings], logits, generated=[[1, 1]]) == [2]
    assert sample([settings], logits, prompts=[[1, 1]]) == [1]
    assert sample([settings], logits, generated=[[1, 1, 2, 2]]) == [3]


def test_the_repetition_penalty_counts_the_prompt_too() -> None:
    """Positive logits are divided, negative ones multiplied."""
    logits = np.full((1, VOCABULARY), -1.0, np.float32)
    logits[0, [1, 2]] = [5.0, 4.0]
    settings = Sampling(seed=0, temperature=0, repetition_penalty=2.0)
    assert sample([settings], logits, prompts=[[1]]) == [2]
    assert sample([settings], logits, prompts=[[1]], generated=[[2]]) == [1]
    everything = list(range(VOCABULARY - 1))
    assert sample([settings], np.full_like(logits, -1.0), prompts=[everything]) == [VOCABULARY - 1]


def test_a_token_that_was_drawn_but_not_read_is_counted() -> None:
    """The sampler runs one step ahead of the reader; penalties must not lag behind."""
    logits = np.zeros((2, VOCABULARY), np.float32)
    logits[:, 1], logits[:, 2] = 5.0, 4.5
    settings = Sampling(seed=0, temperature=0, presence_penalty=1.0)
    rows = [SamplingRow(settings, [], []), SamplingRow(settings, [], [])]
    sampler = BatchSampler(rows, VOCABULARY, mx.array([1, -1]))
    assert sampler.sample(mx.array(logits), [1, 0])[0].tolist() == [2, 1]
    assert sampler.sample(mx.array(logits), [2, 1])[0].tolist() == [1, 2]


def test_reported_probabilities_are_the_models_own() -> None:
    """Bias and penalties choose the token; the report is from the logits as they came."""
    logits = logits_of(3)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    settings = [
        GREEDY,
        Sampling(seed=0, temperature=0, logprobs=3, logit_bias=((42, 100.0),)),
        Sampling(seed=0, temperature=0, logprobs=0),
    ]
    rows = [SamplingRow(each, [], []) for each in settings]
    tokens, report = BatchSampler(rows, VOCABULARY, mx.array([-1] * 3)).sample(
        mx.array(logits), [0] * 3
    )
    found = report.read()
    assert sorted(found) == [1, 2]
    assert int(np.array(tokens)[1]) == 42
    np.testing.assert_allclose(found[1].logprob, expected[1, 42], atol=1e-4)
    assert [token for token, _ in found[1].top] == np.argsort(-expected[1])[:3].tolist()
    assert found[2].top == ()
    assert report.keep([0, 2]).read() == {1: found[2]}
    assert report.keep([1, 2]).read() == {0: found[1], 1: found[2]}
    assert report.keep([0]).read() == {}


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_row_whose_logits_are_not_finite_draws_nothing_and_the_others_as_ever(
    broken: float,
) -> None:
    """One such value is enough, for greedy rows and for drawn ones, and stays in its row."""
    logits = logits_of(len(MIXED))
    sound = sample(MIXED, logits)
    for row in range(len(MIXED)):
        logits_with = logits.copy()
        logits_with[row, 123] = broken
        drawn = sample(MIXED, logits_with)
        assert drawn == [*sound[:row], NO_TOKEN, *sound[row + 1 :]]
