"""``POST /v1/embeddings``, over HTTP and by the official SDK."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from server.core.errors import AdapterUnavailable
from server.core.messages import Sampling
from tests.fake_rows import pooled
from tests.fakes import FakeEngine
from tests.server.api.serving import BASE, PIRATE, REVISION, Served, error_of, serving

pytestmark = pytest.mark.anyio


async def embed(server: Served, **fields: Any) -> httpx.Response:
    """Embeddings; fields replace or extend the smallest request."""
    return await server.http.post("/v1/embeddings", json={"model": BASE, "input": "hi", **fields})


async def vectors(server: Served, **fields: Any) -> list[Any]:
    """The vectors of an answer as it should be, in order."""
    answer = await embed(server, **fields)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [(row["object"], row["index"]) for row in data] == [
        ("embedding", index) for index in range(len(data))
    ]
    return [row["embedding"] for row in data]


async def test_an_answer_is_the_reference_s_object_with_a_unit_vector() -> None:
    """The engine's mean over its length; usage counts the tokens."""
    async with serving() as server:
        answer = (await embed(server)).json()
        (request,) = server.engine.submitted
    assert request.sampling == Sampling(seed=0)
    (row,) = answer.pop("data")
    assert answer == {
        "object": "list",
        "model": BASE,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    mean = pooled(request).mean
    length = math.hypot(*mean)
    assert row["embedding"] == pytest.approx([value / length for value in mean])


async def test_every_kind_of_input_is_taken_and_keeps_its_order() -> None:
    """A text, tokens, and lists of both."""
    async with serving() as server:
        one = await vectors(server, input="hi")
        tokens = [256, *b"hi"]
        assert await vectors(server, input=tokens) == one
        assert await vectors(server, input=[tokens]) == one
        other = await vectors(server, input="ho")
        assert await vectors(server, input=["ho", "hi", "ho"]) == [*other, *one, *other]


async def test_a_chain_embeds_by_its_revision() -> None:
    """Not as its base, and pinned no longer than it takes."""
    async with serving() as server:
        assert await vectors(server, model=PIRATE) != await vectors(server)
        assert [row.revision for row in server.engine.submitted] == [REVISION, None]
        assert not any(server.pinned().values())


async def test_base64_is_the_same_numbers_in_little_endian_float32() -> None:
    """As the SDK reads it."""
    async with serving() as server:
        (numbers,) = await vectors(server, encoding_format="float")
        (text,) = await vectors(server, encoding_format="base64")
    assert struct.unpack("<8f", base64.b64decode(text)) == pytest.approx(numbers, rel=1e-6)


async def test_dimensions_cut_the_vector_and_make_it_a_unit_again() -> None:
    """More than there are is an error that says how many there are."""
    async with serving() as server:
        (whole,) = await vectors(server, dimensions=8)
        (cut,) = await vectors(server, dimensions=3)
        refused = await embed(server, dimensions=9)
    length = math.hypot(*whole[:3])
    assert cut == pytest.approx([value / length for value in whole[:3]])
    assert refused.status_code == 400
    assert error_of(refused)["param"] == "dimensions"
    assert "8 numbers" in error_of(refused)["message"]


async def test_many_texts_take_few_places_in_the_queue() -> None:
    """The others follow as those before them end, so that any number of texts fits any queue."""
    engine = FakeEngine(queue_limit=3, max_rows=2)
    async with serving(engine) as server:
        engine.hold()
        asking = asyncio.create_task(vectors(server, input=[f"text {n}" for n in range(50)]))
        await engine.until(lambda: len(engine.submitted) == 3)
        engine.release()
        assert len(await asking) == 50
        assert len({row.prompt for row in engine.submitted}) == 50
        assert {row.priority for row in engine.submitted[8:]} == {1}


async def test_a_full_queue_is_a_429() -> None:
    """Where not even one text finds a place."""
    engine = FakeEngine(queue_limit=1, max_rows=1)
    async with serving(engine) as server:
        engine.hold()
        waiting = asyncio.create_task(server.complete())
        await engine.until(lambda: len(engine.submitted) == 1)
        assert (await embed(server)).status_code == 429
        engine.release()
        await waiting


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": []}, "input", "invalid_request"),
        ({"input": ""}, "input", "invalid_request"),
        ({"input": ["hi", ""]}, "input", "invalid_request"),
        ({"input": ["hi", [1]]}, "input", "invalid_request"),
        ({"input": None}, "input", "invalid_request"),
        ({"input": [1.5]}, "input", "invalid_request"),
        ({"input": ["x"] * 2049}, "input", "invalid_request"),
        ({"input": [[1], [258]]}, "input[1]", "invalid_request"),
        ({"input": [[1], [-1]]}, "input[1]", "invalid_request"),
        ({"input": "x" * 512}, "input", "context_length_exceeded"),
        ({"input": [[1] * 500] * 601}, "input", "invalid_request"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_request"),
        ({"dimensions": 0}, "dimensions", "invalid_request"),
        ({"dimensions": True}, "dimensions", "invalid_request"),
        ({"model": [BASE, PIRATE]}, "model", "two_adapters"),
        ({"adapters": "pirate"}, "adapters", "two_adapters"),
        ({"user": 7}, "user", "invalid_request"),
    ],
)
async def test_what_cannot_be_embedded_is_a_400_that_names_the_field(
    fields: dict[str, Any], param: str, code: str
) -> None:
    """Before anything is queued."""
    async with serving() as server:
        answer = await embed(server, **fields)
        assert server.engine.submitted == []
    assert answer.status_code == 400, answer.text
    assert (error_of(answer)["param"], error_of(answer)["code"]) == (param, code)


async def test_an_unknown_model_is_a_404() -> None:
    """Never the base's vector."""
    async with serving() as server:
        answer = await embed(server, model=f"{BASE}:nobody")
        assert server.engine.submitted == []
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"


async def test_a_row_that_fails_fails_the_request_and_ends_the_others() -> None:
    """Nothing is left in the engine, and nothing stays pinned."""
    engine = FakeEngine()
    engine.refusals[REVISION] = AdapterUnavailable("its file is gone")
    async with serving(engine) as server:
        answer = await embed(server, model=PIRATE, input=["a", "b"] * 20)
        assert answer.status_code == 503
        await engine.until(lambda: not engine.stats().waiting)
        assert not any(server.pinned().values())


async def test_a_client_that_goes_away_ends_its_rows() -> None:
    """The device does not read texts for nobody."""
    engine = FakeEngine()
    async with serving(engine) as server:
        engine.hold()
        asking = asyncio.create_task(embed(server, input=["a", "b", "c"]))
        await engine.until(lambda: len(engine.submitted) == 3)
        asking.cancel()
        await engine.until(lambda: len(engine.cancelled) == 3)
        await server.idle()
        assert engine.stats().waiting == 0
        assert not any(server.pinned().values())


@pytest.mark.parametrize("form", ["float", "base64", None])
async def test_the_openai_sdk_reads_every_form(form: Any) -> None:
    """Its own default is base64, which it decodes."""
    options = {} if form is None else {"encoding_format": form}
    async with serving() as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            answer = await client.embeddings.create(
                model=PIRATE, input=["a", "b"], dimensions=4, user="me", **options
            )
        expected = await vectors(server, model=PIRATE, input=["a", "b"], dimensions=4)
    assert answer.usage.total_tokens == 4
    for row, numbers in zip(answer.data, expected, strict=True):
        found: Any = row.embedding
        if form == "base64":
            found = struct.unpack("<4f", base64.b64decode(found))
        assert found == pytest.approx(numbers, rel=1e-6)
