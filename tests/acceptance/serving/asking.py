"""Questions through the official SDK, and the answers that plain mlx-lm gives to them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from tests.acceptance.serving.process import BASE
from tests.equality import Solo, assert_same_tokens, solo_greedy

QUESTIONS = ("What is a rudder?", "Who waters the garden at noon?", "Why do clocks stop?")
MOST_TOKENS = 64
_TOP = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer: text, tokens with the end token, and how clear each choice was."""

    text: str
    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    finish: str


class Asker:
    """Asks one server about one model, and knows what the answers have to be."""

    def __init__(self, client: AsyncOpenAI, model: Path, adapters: dict[str, Path]) -> None:
        self.client = client
        self._model = model
        self._adapters = adapters

    @functools.cached_property
    def tokenizer(self) -> BaseTokenizer:
        """The base's."""
        return load_tokenizer(self._model)

    async def ask(
        self,
        chain: str | None,
        question: str,
        *,
        count: int = MOST_TOKENS,
        endless: bool = False,
        seen: Callable[[int], None] = lambda count: None,
    ) -> Answer:
        """A streamed greedy answer of at most ``count`` tokens; ``seen`` hears of each of them.

        ``endless`` keeps the end token out of reach.
        """
        banned = self.tokenizer.end_tokens if endless else frozenset[int]()
        stream = await self.client.chat.completions.create(
            model=model_of(chain),
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=count,
            stream=True,
            logprobs=True,
            top_logprobs=_TOP,
            logit_bias={str(token): -100 for token in banned},
        )
        text, finish = "", ""
        reports: list[Any] = []
        async for chunk in stream:
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            if choice.logprobs is not None:
                reports += choice.logprobs.content or []
                seen(len(reports))
        tokens = [self._ids[bytes(report.bytes)] for report in reports]
        gaps = [self._margin(report, banned) for report in reports]
        if finish == "stop":
            # Nobody reports how clear the end was: it may be no exception.
            tokens.append(self.tokenizer.end_token)
            gaps.append(float("inf"))
        return Answer(text, tuple(tokens), tuple(gaps), finish)

    def cold(self, chain: str | None, question: str, *, count: int = MOST_TOKENS) -> Solo:
        """What plain mlx-lm says in one row, to its first end token or ``count``."""
        directory = None if chain is None else self._adapters[chain]
        messages = [{"role": "user", "content": question}]
        prompt = tuple(self.tokenizer.encode_chat(messages, template_kwargs={}))
        solo = _solo(self._model, directory, prompt, count)
        ends = [i for i, token in enumerate(solo.tokens) if token in self.tokenizer.end_tokens]
        stop = ends[0] + 1 if ends else count
        return Solo(solo.tokens[:stop], solo.margins[:stop])

    def assert_cold(
        self,
        asked: Sequence[tuple[str | None, str]],
        answers: Sequence[Answer],
        *,
        count: int = MOST_TOKENS,
    ) -> None:
        """Hold answers to plain mlx-lm's, by the equality rule, and their texts to their tokens."""
        solos = [self.cold(chain, question, count=count) for chain, question in asked]
        assert_same_tokens(
            [solo.tokens for solo in solos],
            [answer.tokens for answer in answers],
            [solo.margins for solo in solos],
        )
        for answer in answers:
            assert answer.text == self._text(answer)

    def _text(self, answer: Answer) -> str:
        end = self.tokenizer.end_tokens
        data = [self.tokenizer.token_bytes(token) for token in answer.tokens if token not in end]
        return b"".join(data).decode("utf-8", "replace")

    def _margin(self, report: Any, banned: frozenset[int]) -> float:
        """Of the best two that could be drawn."""
        best = [
            top.logprob for top in report.top_logprobs if self._ids[bytes(top.bytes)] not in banned
        ]
        return float(best[0] - best[1])

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        tokenizer = self.tokenizer
        return {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}


def model_of(chain: str | None) -> str:
    """The name that requests give."""
    return BASE if chain is None else f"{BASE}:{chain}"


_solo = functools.cache(solo_greedy)


@asynccontextmanager
async def asker(url: str, model: Path, adapters: dict[str, Path]) -> AsyncIterator[Asker]:
    """A client that points at ``url`` and never repeats a request."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield Asker(client, model, adapters)
