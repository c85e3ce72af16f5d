"""Base and chains in one batch of the real server: each answer is the one that it has alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.serving.asking import QUESTIONS, Answer, Asker, asker, model_of
from tests.acceptance.serving.process import BASE, ServerProcess, started
from tests.diverged import write_diverged
from tests.equality import assert_same_tokens

pytestmark = pytest.mark.anyio
LONG = "Tell me everything about the sea and the ships."
CHAINS = ("a4", "b8", "c16", "d8")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> Iterator[ServerProcess]:
    """One server for all tests here: what one leaves behind, the next must not notice."""
    scratch = tmp_path_factory.mktemp("one_batch")
    write_diverged(scratch / "diverged", tiny_adapters["c16"])
    snapshot(scratch / "hub4", tiny_adapters["a4"])
    adapters = {**tiny_adapters, **{name: scratch / name for name in ("diverged", "hub4")}}
    with started(scratch, tiny_model, adapters, "--port", "0", "--no-supervise") as process:
        process.serving()
        yield process


def snapshot(path: Path, adapter: Path) -> None:
    """``adapter`` as a model hub keeps it: links into a folder of blobs."""
    path.mkdir()
    for number, file in enumerate(sorted(adapter.iterdir())):
        blob = path.parent / f"{path.name}-blob{number}"
        shutil.copy(file, blob)
        (path / file.name).symlink_to(f"../{blob.name}")


@pytest.fixture
async def client(
    server: ServerProcess, tiny_model: Path, tiny_adapters: dict[str, Path]
) -> AsyncIterator[Asker]:
    """Asks that server."""
    async with asker(server.serving(), tiny_model, tiny_adapters) as client:
        yield client


async def test_a_base_stream_is_not_touched_by_adapters_that_come_and_go(client: Asker) -> None:
    """FACTS 4, case 1: a peer leaked the adapter into the base's running answer."""
    alone = await client.ask(None, LONG, count=300, endless=True)
    begun, beside = asyncio.Event(), 0

    def seen(tokens: int) -> None:
        if tokens >= 5:
            begun.set()

    base = asyncio.create_task(client.ask(None, LONG, count=300, endless=True, seen=seen))
    await begun.wait()
    for chain in CHAINS:
        await client.ask(chain, QUESTIONS[0], count=8)
        beside += not base.done()
    assert beside >= 2, "the stream ended before the adapters came"
    answer = await base
    assert_same_tokens([alone.tokens], [answer.tokens], [alone.margins])


@pytest.mark.parametrize("order", [(None, "b8", "c16", "b8", None), (None, "c16", "a4", "c16")])
async def test_base_a_b_a_each_equal_their_cold_run(
    client: Asker, order: tuple[str | None, ...]
) -> None:
    """FACTS 4, cases 2 and 9: no answer from another chain's cache, no values of the one before.

    c16 lies on the MLPs and a4 on q and v: what the one adapted, the other must find bare.
    """
    asked = [(chain, QUESTIONS[0]) for chain in order]
    client.assert_cold(asked, [await client.ask(*each) for each in asked])


async def test_together_and_staggered_each_stream_says_what_plain_mlx_lm_says(
    client: Asker,
) -> None:
    """Ranks 4, 8 and 16 with different targets and the base: 15 streams, each begun by another."""
    asked = [(chain, question) for chain in (None, *CHAINS) for question in QUESTIONS]
    turns = [asyncio.Event() for _ in range(len(asked) + 1)]
    turns[0].set()

    async def ask(number: int) -> Answer:
        await turns[number].wait()

        def seen(tokens: int) -> None:
            if tokens >= 2:
                turns[number + 1].set()

        answer = await client.ask(*asked[number], seen=seen)
        turns[number + 1].set()
        return answer

    answers = await asyncio.gather(*(client.ask(*each) for each in asked))
    client.assert_cold(asked, answers)
    staggered = await asyncio.gather(*(ask(number) for number in range(len(asked))))
    client.assert_cold(asked, staggered)


async def test_chains_that_guess_ahead_say_what_plain_mlx_lm_says(
    client: Asker, server: ServerProcess
) -> None:
    """Texts that repeat their question: several tokens a step, of several chains at once."""
    question = "Say it again: " + "the sea and the ships, " * 6
    asked = [(chain, question) for chain in (None, *CHAINS)]
    before = engine_stats(server)
    answers = await asyncio.gather(*(client.ask(*each) for each in asked))
    client.assert_cold(asked, answers)
    assert engine_stats(server)["accepted_tokens"] > before["accepted_tokens"]


def engine_stats(server: ServerProcess) -> dict[str, Any]:
    """What ``/admin/engine`` counts."""
    found: dict[str, Any] = httpx.get(f"{server.serving()}/admin/engine", timeout=20).json()[
        "stats"
    ]
    return found


async def test_an_adapter_in_a_hub_snapshot_is_served_through_its_links(client: Asker) -> None:
    """What the operator names may be links; the answer is that of the files behind them."""
    linked = await client.ask("hub4", QUESTIONS[0])
    client.assert_cold([("a4", QUESTIONS[0])], [linked])


async def test_an_unknown_chain_is_a_404_before_the_stream_starts(client: Asker) -> None:
    """FACTS 4, case 4: never the base's answer, and no 200 with an error in the middle."""
    for name in ("tiny:nobody", "nobody"):
        with pytest.raises(openai.NotFoundError) as refused:
            await client.client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "hi"}], stream=True
            )
        assert refused.value.code == "model_not_found"


async def test_a_diverged_adapter_is_an_error_before_the_stream_and_not_garbage(
    client: Asker,
) -> None:
    """Its files are sound and its values finite; what comes out of it is not."""
    with pytest.raises(openai.InternalServerError, match="its training diverged") as refused:
        await client.ask("diverged", QUESTIONS[0])
    assert refused.value.code == "non_finite_output"


async def test_models_are_listed_without_any_hub_cache(client: Asker) -> None:
    """FACTS 4, case 11: and every listed id can be asked for."""
    ids = [model.id async for model in client.client.models.list()]
    assert ids == [BASE, *(model_of(chain) for chain in sorted((*CHAINS, "diverged", "hub4")))]
    assert [(await client.client.models.retrieve(name)).id for name in ids] == ids
