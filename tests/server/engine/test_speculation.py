"""Speculation in mixed batches: rows draw what they draw one by one, whatever is guessed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from adapters.base.tokenizer import load_tokenizer
from server.core.errors import NonFiniteOutput
from server.core.messages import (
    EngineStats,
    Event,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Sampling,
    Token,
)
from server.engine.device import Limits
from server.engine.rows import Row
from server.engine.speculation import Speculation
from tests.diverged import write_diverged
from tests.equality import TOLERANCE, assert_same_tokens, solo_greedy
from tests.server.engine.guessing import Continuations, FreeGuesses, guess
from tests.server.engine.rig import LIMITS, Bench, running, tokens

pytestmark = pytest.mark.anyio

PLAIN = replace(LIMITS, speculate=False, prefix_cache_bytes=0)
GREEDY = Sampling(seed=1, temperature=0.0)
SETTINGS = (
    GREEDY,
    replace(GREEDY, logit_bias=((40, 2.0), (41, -100.0))),
    replace(GREEDY, logprobs=2),
    replace(GREEDY, repetition_penalty=1.5, presence_penalty=0.5),
    Sampling(seed=5, temperature=1.0),
    Sampling(seed=6, temperature=0.8, top_p=0.7, logprobs=0),
    Sampling(seed=7, temperature=1.2, top_k=9, min_p=0.05),
    Sampling(seed=8, temperature=1.0, frequency_penalty=1.0),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One row; equal numbers are equal prompts."""

    number: int
    adapter: str | None = None
    sampling: Sampling = GREEDY
    max_tokens: int = 40
    end: int | None = None


class Runs:
    """Rows on a fresh engine on the tiny model, all at once; ``stats`` are the last engine's."""

    def __init__(self, model: Path, adapters: dict[str, Path]) -> None:
        self._model, self._adapters = model, adapters
        self._tokenizer = load_tokenizer(model)
        self.stats = EngineStats("stopped")

    def prompt(self, ask: Ask) -> tuple[int, ...]:
        """Prompts of several lengths."""
        return tuple(
            self._tokenizer.encode(f"number {ask.number}" + " and more" * (ask.number % 5))
        )

    def request(self, bench: Bench, ask: Ask) -> Generate:
        """What the engine is asked."""
        prompt = self.prompt(ask)
        row = bench.row(ask.adapter, prompt, ask.sampling, max_tokens=ask.max_tokens)
        return row if ask.end is None else replace(row, end_tokens=frozenset({ask.end}))

    async def run(self, asks: list[Ask], limits: Limits) -> list[list[Event]]:
        """Every event of every row."""
        async with running(self._model, self._adapters, limits) as bench:
            rows = [self.request(bench, ask) for ask in asks]
            events = await asyncio.gather(*(bench.ask(row) for row in rows))
            self.stats = bench.engine.stats()
        return list(events)


def continuations(runs: Runs, asks: list[Ask], found: list[list[Event]]) -> Continuations:
    """What to guess: what was drawn without guessing."""
    return {runs.prompt(ask): tokens(events) for ask, events in zip(asks, found, strict=True)}


@pytest.fixture
def runs(tiny_model: Path, tiny_adapters: dict[str, Path]) -> Runs:
    """On the tiny model, with all its adapters."""
    return Runs(tiny_model, tiny_adapters)


GUESSING = replace(PLAIN, speculate=True)


@pytest.mark.parametrize("wrong", [2, 7, 1000])
async def test_rows_of_every_kind_draw_what_they_draw_one_by_one(
    runs: Runs, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    """Greedy, sampled, biased and penalised, of several chains and lengths, in one batch."""
    names = [None, *tiny_adapters]
    asks = [
        Ask(at, names[at % len(names)], sampling, max_tokens=20 + 3 * at)
        for at, sampling in enumerate(SETTINGS)
    ]
    plain = await runs.run(asks, PLAIN)
    assert runs.stats.guessed_tokens == 0
    guess(monkeypatch, continuations(runs, asks, plain), wrong=wrong)
    guessed = await runs.run(asks, GUESSING)
    assert [tokens(events) for events in guessed] == [tokens(events) for events in plain]
    assert [events[-1] for events in guessed] == [events[-1] for events in plain]
    for before, after in zip(plain, guessed, strict=True):
        assert _reports_agree(before, after)
    assert 0 < runs.stats.accepted_tokens <= runs.stats.guessed_tokens
    assert (runs.stats.accepted_tokens == runs.stats.guessed_tokens) == (wrong == 1000)
    assert runs.stats.generated_tokens == sum(ask.max_tokens for ask in asks)


def _reports_agree(before: list[Event], after: list[Event]) -> bool:
    for one, other in zip(before, after, strict=True):
        if not isinstance(one, Token) or not isinstance(other, Token) or one.logprobs is None:
            continue
        assert other.logprobs is not None
        assert abs(one.logprobs.logprob - other.logprobs.logprob) <= TOLERANCE
        assert [token for token, _ in one.logprobs.top] == [
            token for token, _ in other.logprobs.top
        ]
    return True


async def test_an_end_token_among_accepted_guesses_ends_the_row_there(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was drawn behind it in the same step is nobody's; neighbours go on."""
    asks = [Ask(0), Ask(1), Ask(2)]
    plain = await runs.run(asks, PLAIN)
    guess(monkeypatch, continuations(runs, asks, plain), wrong=1000)
    drawn = tokens(plain[1])
    last = max(drawn.index(token) for token in drawn)  # the latest first occurrence
    asks[1] = replace(asks[1], end=drawn[last])
    found = await runs.run(asks, GUESSING)
    assert tokens(found[1]) == drawn[:last]
    end = Token(drawn[last])
    assert found[1][-1] == Finished(FinishReason.STOP, len(runs.prompt(asks[1])), last, end=end)
    assert [found[0], found[2]] == [plain[0], plain[2]]
    assert runs.stats.steps < 10


async def test_rows_that_are_preempted_among_guesses_lose_nothing(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses take no more memory than rows may have, and a preempted row draws the same."""
    asks = [Ask(at, "a4") for at in range(4)]
    plain = await runs.run(asks, PLAIN)
    guess(monkeypatch, continuations(runs, asks, plain))
    found = await runs.run(asks, replace(GUESSING, kv_budget_tokens=150, reserve_tokens=1))
    assert found == plain
    assert runs.stats.accepted_tokens > 0


async def test_a_diverged_row_ends_and_its_guessing_neighbours_do_not_notice(
    tiny_model: Path,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not finite in one row stays there, guessed tokens or not."""
    write_diverged(tmp_path / "diverged", tiny_adapters["c16"])
    runs = Runs(tiny_model, {**tiny_adapters, "diverged": tmp_path / "diverged"})
    asks = [Ask(0, "b8"), Ask(1, "a4")]
    plain = await runs.run(asks, PLAIN)
    bad = Ask(2, "diverged")
    known = {**continuations(runs, asks, plain), runs.prompt(bad): [3] * 40}
    guess(monkeypatch, known)
    *found, (failed,) = await runs.run([*asks, bad], GUESSING)
    assert found == plain
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NonFiniteOutput)


async def test_a_row_that_is_cancelled_between_guesses_leaves_nothing(
    runs: Runs, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens so far stay readable, then comes the one last event."""
    asks = [Ask(0, max_tokens=400), Ask(1)]
    plain = await runs.run(asks, PLAIN)
    guess(monkeypatch, continuations(runs, asks, plain), wrong=3)
    async with running(tiny_model, {}, GUESSING) as bench:
        request = runs.request(bench, asks[0])
        first = bench.engine.submit(request)
        other = asyncio.create_task(bench.ask(runs.request(bench, asks[1])))
        begun = [await anext(first)]
        bench.engine.cancel(request.request_id)
        begun += [event async for event in first]
        assert await other == plain[1]
    assert isinstance(begun[-1], Finished)
    assert begun[-1].reason is FinishReason.CANCELLED
    drawn = [event.token for event in begun if isinstance(event, Token)]
    assert drawn == tokens(plain[0])[: len(drawn)]


async def test_what_a_guessing_row_leaves_in_the_prefix_cache_is_its_own(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that were taken back are not what a later request goes on from."""
    runs = Runs(tiny_model, {})
    asks = [Ask(at, max_tokens=80 + at) for at in range(3)]
    plain = await runs.run(asks, PLAIN)
    guess(monkeypatch, continuations(runs, asks, plain), wrong=3)
    async with running(tiny_model, {}, replace(GUESSING, prefix_cache_bytes=1 << 24)) as bench:
        rows = [runs.request(bench, ask) for ask in asks]
        drawn = await asyncio.gather(*(bench.ask(row) for row in rows))
        later = [
            bench.row(None, (*row.prompt, *tokens(events), 7, 8))
            for row, events in zip(rows, drawn, strict=True)
        ]
        monkeypatch.undo()
        warm = [await bench.ask(row) for row in later]
    async with running(tiny_model, {}, PLAIN) as bench:
        cold = [await bench.ask(row) for row in later]
    assert [tokens(events) for events in warm] == [tokens(events) for events in cold]
    for events, row in zip(warm, later, strict=True):
        assert isinstance(events[-1], Finished)
        assert events[-1].cached_tokens >= len(row.prompt) - 3


@pytest.mark.parametrize(
    ("limit", "max_tokens", "kv_tokens", "most"),
    [(8, 100, 10**6, 2), (10**3, 100, 10**6, 15), (10**3, 4, 10**6, 3), (10**3, 100, 28, 5)],
)
async def test_a_row_guesses_no_further_than_its_reader_its_end_and_the_memory_allow(
    limit: int, max_tokens: int, kv_tokens: int, most: int
) -> None:
    """A burst of tokens is no reason to call a reader slow, and none is computed for nobody."""
    bounds = replace(GUESSING, event_queue_limit=limit)
    times = FreeGuesses(fixed_s=1, tokens_per_s=1)
    guesses = Speculation(times, most=bounds.most_guessed_tokens, kv_tokens=kv_tokens)
    prompt = (7, 8) * 4
    rows = [
        Row(Generate(name, prompt, max_tokens, GREEDY, frozenset()), prompt) for name in ("a", "b")
    ]
    proposals = guesses.propose(rows)
    assert proposals == [([7, 8] * 8)[:most]] * 2


async def test_a_row_that_repeats_itself_is_guessed_by_its_own_tokens(runs: Runs) -> None:
    """Nobody told the engine: a loop of one token is found and wins on a real clock."""
    loop = replace(GREEDY, logit_bias=((40, 100.0),))
    asks = [Ask(at, sampling=loop, max_tokens=200) for at in range(2)]
    found = await runs.run(asks, GUESSING)
    assert [tokens(events) for events in found] == [[40] * 200] * 2
    assert runs.stats.accepted_tokens > 100
    assert runs.stats.steps < 150


_STORY = (
    "The harbour was built in 1872 by the engineer Mary Dunmore. The first stone was laid in "
    "April, and by the end of the summer four hundred men worked on the quays."
)


@pytest.mark.slow
async def test_a_model_that_echoes_is_guessed_right_and_says_what_plain_mlx_lm_says(
    embedded_model: Path,
) -> None:
    """A real model, nobody tells the engine what to guess, and rows that guess stand mixed."""
    tokenizer = load_tokenizer(embedded_model)
    asked = [
        f"Repeat the following text exactly, word by word:\n\n{_STORY}",
        "Why is the sky blue?",
        f"Write this text again, with 1899 in place of 1872:\n\n{_STORY}",
    ]
    prompts = [
        tokenizer.encode_chat([{"role": "user", "content": text}], template_kwargs={})
        for text in asked
    ]
    async with running(embedded_model, {}, GUESSING) as bench:
        rows = [bench.row(None, prompt, max_tokens=40) for prompt in prompts]
        found = await asyncio.gather(*(bench.ask(row) for row in rows))
        stats = bench.engine.stats()
    solos = [solo_greedy(embedded_model, None, prompt, 40) for prompt in prompts]
    assert_same_tokens(
        [solo.tokens for solo in solos],
        [tokens(events) for events in found],
        [solo.margins for solo in solos],
    )
    assert stats.accepted_tokens > 10
