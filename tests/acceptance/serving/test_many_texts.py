"""Several texts of one request on the real engine: drawn, scored, and gone without a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from adapters.base.tokenizer import load_tokenizer
from tests.acceptance.elsewhere.test_transfer import sent
from tests.acceptance.extending.product import Product, serving
from tests.equality import NEAR, TOLERANCE, margins, solo_logprobs
from tests.memory import active_memory

QUESTION = "What is a rudder?"
TEXTS = ("The sail is up, and the harbour lies behind us.", "Bread is baked at noon.")


@pytest.fixture(scope="module")
def product(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """The tiny model with chains; nothing is kept of a prompt, so that memory can be compared."""
    data = tmp_path_factory.mktemp("data")
    with serving(tiny_model, data, prefix_cache_bytes=0) as running:
        for chain, adapter in (("a4", "a4"), ("b8", "b8"), ("gone", "a4")):
            running.ok(sent(running, chain, tiny_adapters[adapter]))
        yield running


@pytest.fixture
def sdk(product: Product) -> Iterator[openai.OpenAI]:
    """OpenAI's own client for that server."""
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def drawn(sdk: openai.OpenAI, model: str, n: int) -> list[str]:
    """``n`` choices of at most 24 tokens, drawn by one seed."""
    answer = sdk.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        n=n,
        seed=11,
        temperature=0.9,
        max_completion_tokens=24,
    )
    return [choice.message.content or "" for choice in answer.choices]


def test_choices_are_the_same_beside_others_and_the_first_is_that_of_one(
    sdk: openai.OpenAI,
) -> None:
    """A choice draws by the request's seed and its own number, never by its neighbours."""
    models = ["tiny", "tiny:a4", "tiny:b8"]
    alone = [drawn(sdk, model, 4) for model in models]
    assert all(len(set(texts)) == 4 for texts in alone)
    assert [drawn(sdk, model, 1)[0] for model in models] == [texts[0] for texts in alone]
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(lambda model: drawn(sdk, model, 4), models * 2))
    assert together == alone * 2


def test_prompts_are_scored_as_a_forward_of_mlx_lm_scores_them(
    product: Product, sdk: openai.OpenAI, tiny_adapters: dict[str, Path]
) -> None:
    """Base and chains, lists of token ids, without a token generated, while others generate."""
    prompts = [load_tokenizer(product.model_dir).encode(text) for text in TEXTS]

    def scored(model: str) -> openai.types.Completion:
        return sdk.completions.create(
            model=model, prompt=prompts, echo=True, logprobs=5, max_tokens=0
        )

    models = {"tiny": None, "tiny:a4": tiny_adapters["a4"], "tiny:b8": tiny_adapters["b8"]}
    with ThreadPoolExecutor() as pool:
        beside = pool.map(lambda model: drawn(sdk, model, 2), models)
        answers = list(pool.map(scored, models))
        list(beside)
    for answer, adapter in zip(answers, models.values(), strict=True):
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 0
        assert [choice.text for choice in answer.choices] == list(TEXTS)
        for choice, prompt in zip(answer.choices, prompts, strict=True):
            rows = solo_logprobs(product.model_dir, adapter, prompt)[:-1]
            reported: Any = choice.logprobs  # the SDK's type has no null
            (first, *values), (_, *tops) = reported.token_logprobs, reported.top_logprobs
            assert first is None
            exact = rows[np.arange(len(values)), prompt[1:]]
            assert np.abs(exact - np.array(values)).max() <= TOLERANCE
            for row, top, gap in zip(rows, tops, margins(rows), strict=True):
                assert gap <= NEAR or abs(max(top.values()) - row.max()) <= TOLERANCE
                assert 5 <= len(top) <= 6


def test_memory_returns_after_many_choices_and_after_a_client_that_left(
    product: Product, sdk: openai.OpenAI
) -> None:
    """FACTS 4, case 6: whatever a request of many rows took is free again, and so is its pin."""
    drawn(sdk, "tiny:gone", 6)  # what is made once
    settle(product)
    before = active_memory()
    drawn(sdk, "tiny:gone", 6)
    stream = sdk.chat.completions.create(
        model="tiny:gone",
        messages=[{"role": "user", "content": QUESTION}],
        n=6,
        max_completion_tokens=900,
        logit_bias={"2": -100},
        stream=True,
    )
    seen: set[int] = set()
    for chunk in stream:
        seen |= {choice.index for choice in chunk.choices if choice.delta.content}
        if len(seen) == 6:
            break
    assert product.ok(product.http.get("/admin/engine"))["stats"]["decoding"] == 6
    stream.close()
    settle(product)
    # A row's KV takes a hundred times that.
    assert active_memory() - before < 1 << 14
    assert product.http.delete("/admin/chains/gone").status_code == 200


def settle(product: Product) -> None:
    """Return once no row is left, and the engine is whole."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stats = product.ok(product.http.get("/admin/engine"))["stats"]
        if not stats["decoding"] + stats["prefilling"] + stats["waiting"]:
            assert stats["integrity"] == "ok"
            return
        time.sleep(0.02)
    raise AssertionError("rows are left")
