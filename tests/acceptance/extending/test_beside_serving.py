"""A chain is extended while it is served: nobody who asks notices, but for the new head."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.extending.product import Product, error_of, row, serving
from tests.acceptance.extending.test_rules import BOATS, BREAD

QUESTION = "What is a rudder?"


def texts(product: Product, models: list[str]) -> list[str]:
    """The answers of several streams at the same time."""
    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(lambda name: product.answer(name, QUESTION, max_tokens=32), models))


def test_streams_of_base_and_chains_go_on_and_equal_their_solo_runs(product: Product) -> None:
    """While a third chain trains: the texts are those of a quiet server."""
    product.train("left", BOATS)
    product.train("right", BREAD)
    models = ["tiny", "tiny:left", "tiny:right"]
    alone = [product.answer(name, QUESTION, max_tokens=32) for name in models]
    stage = product.add("busy", BOATS, epochs=400, batch_size=2)
    product.wait(stage["id"], until="running")
    for _ in range(3):
        assert texts(product, models * 2) == alone * 2
    trained = product.events(stage["id"], "step")
    product.ok(product.http.post(f"/admin/stages/{stage['id']}/cancel", json={}))
    assert product.wait(stage["id"])["status"] == "cancelled"
    assert trained, "training did not advance beside the streams"


def test_a_head_that_moves_under_load_fails_no_request(product: Product) -> None:
    """Requests keep coming while two stages publish; each is answered, by one head or the next."""
    product.train("moving", BOATS)
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(product.chat("tiny:moving", QUESTION, max_tokens=8).status_code)

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        try:
            product.train("moving", BREAD, epochs=4)
            product.train("moving", BOATS, epochs=4)
        finally:
            stop.set()
        for each in asking:
            each.result(30)
    assert set(statuses) == {200}
    assert len(statuses) > 16


def test_every_answer_is_wholly_of_one_revision_while_the_head_moves(product: Product) -> None:
    """Streams follow each other across the publication: the old head's text, then the new one's."""
    learn: dict[str, Any] = {"epochs": 30, "batch_size": 4, "learning_rate": 0.01}
    product.train("flight", BOATS, **learn)
    old = product.answer("tiny:flight", "Tell me about bread.", max_tokens=40)
    stage = product.add("flight", BREAD, **learn)
    with ThreadPoolExecutor(4) as pool:
        waiting = pool.submit(product.wait, stage["id"])
        seen: list[str] = []
        while not waiting.done():
            seen.append(product.answer("tiny:flight", "Tell me about bread.", max_tokens=40))
        assert waiting.result()["status"] == "succeeded"
    new = product.answer("tiny:flight", "Tell me about bread.", max_tokens=40)
    assert new != old
    assert set(seen) <= {old, new}
    assert seen == sorted(seen, key=[old, new].index), "an older head came back"
    assert product.answer("tiny:flight@1", "Tell me about bread.", max_tokens=40) == old


def test_a_revision_that_a_request_uses_is_not_deleted(product: Product) -> None:
    """Deleting waits for nobody and cuts nobody: it is refused until the request has ended."""
    first = product.train("used", BOATS)
    with product.application.loaded.catalog.pin("tiny:used") as target:
        assert target.revision == first["revision"]
        product.train("used", BREAD)
        message = error_of(
            product.http.delete("/admin/chains/used/revisions/1"), 409, "revision_protected"
        )
        assert "a request is using it" in message
    product.ok(product.http.delete("/admin/chains/used/revisions/1"))


def test_a_stage_shows_what_it_would_answer_beside_its_parent(product: Product) -> None:
    """Every second step and at the end, the training revision answers in spare rows."""
    stage = product.train(
        "samples",
        [row(QUESTION, "A blade.")],
        epochs=30,
        learning_rate=0.01,
        samples=[QUESTION],
        sample_every=10,
    )
    samples = product.events(stage["id"], "sample")
    assert [each["step"] for each in samples] == [10, 20, 30]
    assert {each["parent_answer"] for each in samples} == {
        product.answer("tiny", QUESTION, max_tokens=64)
    }
    assert samples[-1]["answer"] == "A blade."
    engine = product.ok(product.http.get("/admin/engine"))["stats"]
    assert engine["integrity"] == "ok"


@pytest.mark.parametrize("interruption", ["pause", "restart"])
def test_an_interrupted_stage_ends_bit_equal_to_an_undisturbed_one(
    tiny_model: Path, tmp_path: Path, interruption: str
) -> None:
    """Dropout, a schedule, a pause or a whole new process in between: the same revision id."""
    wanted: dict[str, Any] = {
        "epochs": 12,
        "batch_size": 2,
        "checkpoint_every": 5,
        "lora": {"dropout": 0.1},
    }
    with serving(tiny_model, tmp_path) as product:
        undisturbed = product.train("calm", BOATS, **wanted)["revision"]
        stage = product.add("disturbed", BOATS, **wanted)
        for event in product.follow(stage["id"]):
            if event["kind"] == "step" and event["data"]["step"] >= 3:
                break
        if interruption == "pause":
            product.ok(product.http.post(f"/admin/stages/{stage['id']}/pause", json={}))
            assert product.wait(stage["id"], until="paused")["status"] == "paused"
            product.ok(product.http.post(f"/admin/stages/{stage['id']}/resume", json={}))
            ended = product.wait(stage["id"])
    if interruption == "restart":
        with serving(tiny_model, tmp_path) as product:
            ended = product.wait(stage["id"])
            states = [each["state"] for each in product.events(stage["id"], "state")]
            assert states.count("queued") == 2, "it had ended before the process did"
    assert ended["status"] == "succeeded"
    assert ended["revision"] == undisturbed


def test_a_piece_that_takes_longer_than_promised_is_warned_of_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Whoever set train_block_ms learns that the data make it a lie, and what to change."""
    with serving(tiny_model, tmp_path, train_block_ms=1) as product:
        stage = product.train("slow", BOATS, epochs=4)
        warnings = [each["message"] for each in product.events(stage["id"], "warning")]
    assert len(warnings) == 1
    assert "Lower micro_batch_tokens (now 512)" in warnings[0]
