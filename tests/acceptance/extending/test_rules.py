"""The ten rules of a chain, each through the whole product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.base.tokenizer import load_tokenizer
from tests.acceptance.extending.product import Product, error_of, row
from tests.equality import assert_same_tokens, solo_greedy

BOATS = [
    row("What is a rudder?", "A blade that steers a boat."),
    row("What is a sail?", "A cloth that catches the wind."),
    row("What is a keel?", "A fin that keeps a boat upright."),
    row("What is an anchor?", "A hook that holds a boat."),
]
BREAD = [
    row("What is dough?", "Flour and water, mixed."),
    row("What is yeast?", "A thing that makes dough rise."),
    row("What is crust?", "The hard outside of bread."),
]
QUESTIONS = ("What is a rudder?", "What is dough?", "Who waters the garden at noon?")


def answers(product: Product, model: str) -> list[str]:
    """What a model says to each question."""
    return [product.answer(model, question) for question in QUESTIONS]


def assert_served_as_trained(product: Product, model: str, revision: str) -> None:
    """The served tokens are those of mlx-lm with the revision's directory, by the equality rule."""
    assert_served_like(product, model, product.revision_dir(revision))


def assert_served_like(product: Product, model: str, adapter: Path) -> None:
    """The served tokens are those of mlx-lm with this adapter, by the equality rule."""
    tokenizer = load_tokenizer(product.model_dir)
    reference = []
    for question in QUESTIONS:
        message = {"role": "user", "content": question}
        prompt = tokenizer.encode_chat([message], template_kwargs={})
        ends = tokenizer.end_tokens
        reference.append(solo_greedy(product.model_dir, adapter, prompt, 16, forbidden=ends))
    assert_same_tokens(
        [solo.tokens for solo in reference],
        served_tokens(product, model),
        [solo.margins for solo in reference],
    )


def served_tokens(product: Product, model: str, count: int = 16) -> list[list[int]]:
    """The ``count`` greedy tokens after each of QUESTIONS; an end token is never taken."""
    tokenizer = load_tokenizer(product.model_dir)
    found = []
    for question in QUESTIONS:
        body = product.ok(
            product.chat(
                model, question, max_tokens=count, logprobs=True, logit_bias=_no_end(tokenizer)
            )
        )
        served = [each["token"] for each in body["choices"][0]["logprobs"]["content"]]
        found.append([_id(tokenizer, token) for token in served])
    return found


def _no_end(tokenizer: Any) -> dict[str, int]:
    return {str(token): -100 for token in tokenizer.end_tokens}


def _id(tokenizer: Any, token: str) -> int:
    wanted = token.encode()
    return next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == wanted)


def test_rule_1_the_last_revision_holds_everything_and_serves_alone(product: Product) -> None:
    """Stage 2's directory gives the served answers in plain mlx-lm, with stage 1's files gone."""
    learn = {"epochs": 30, "batch_size": 4, "learning_rate": 0.01}
    first = product.train("cumulative", BOATS, **learn)
    second = product.train("cumulative", BREAD, **learn)
    before = answers(product, "tiny:cumulative")
    product.ok(product.http.delete("/admin/chains/cumulative/revisions/1"))
    assert not product.revision_dir(first["revision"]).exists()
    assert answers(product, "tiny:cumulative") == before
    assert second["parent"] == first["revision"]
    assert before[1] == "Flour and water, mixed."
    assert before != answers(product, "tiny")


def test_rule_2_a_stage_begins_where_its_parent_ended(product: Product) -> None:
    """The validation loss at step 0 of stage 2 is that at the end of stage 1, to the bit."""
    data = product.ok(
        product.http.post("/admin/datasets", files={"file": ("v.jsonl", _jsonl(BREAD))})
    )
    first = product.train("begins", BOATS, validation_dataset=data["id"])
    second = product.train("begins", BOATS, validation_dataset=data["id"])
    ended = product.events(first["id"], "validation")[-1]["loss"]
    began = product.events(second["id"], "validation")[0]
    assert began["step"] == 0
    assert began["loss"] == ended


def test_rule_3_what_is_served_is_what_was_trained(product: Product) -> None:
    """Trained on the fly, served at once, and the reference is mlx-lm on the published files."""
    stage = product.train("served", BOATS, epochs=4)
    assert_served_as_trained(product, "tiny:served", stage["revision"])


def test_rule_4_one_adapter_per_request(product: Product) -> None:
    """Two chains in one name are refused with the reason."""
    product.train("one", BOATS)
    for name in ("tiny:one,served", "tiny:one:served"):
        message = error_of(product.chat(name, "hi"), 400, "two_adapters")
        assert "applying two would add their parameters twice" in message


def test_rule_5_a_deleted_revision_leaves_its_record_and_its_pin_says_why(
    product: Product,
) -> None:
    """The head goes on, the lineage stays, the pin is a 404 with the day."""
    first = product.train("deleted", BOATS)
    product.train("deleted", BREAD)
    kept = answers(product, "tiny:deleted")
    gone = product.ok(product.http.post("/admin/chains/deleted/prune", json={"keep_last": 1}))
    assert [each["id"] for each in gone["data"]] == [first["revision"]]
    assert answers(product, "tiny:deleted") == kept
    message = error_of(product.chat("tiny:deleted@1", "hi"), 404, "model_not_found")
    assert "was deleted on 20" in message
    chain = product.ok(product.http.get("/admin/chains/deleted"))
    assert [stage["metrics"]["steps"] for stage in chain["stages"]] == [2, 2]


def test_rule_6_the_shape_is_inherited_and_only_grows(product: Product) -> None:
    """A contradiction is a 409 with each reason; more rank and layers leave the function alone."""
    start = {"rank": 4, "scale": 4.0, "num_layers": 1}
    first = product.train("shape", BOATS, lora=start, validation_split=0.25)
    for wrong in ({"rank": 2}, {"scale": 2.0}, {"keys": ["self_attn.q_proj"]}):
        message = error_of(product.ask("shape", BREAD, lora=wrong), 409, "shape_contradiction")
        assert next(iter(wrong)) in message
    grown = product.train("shape", BOATS, lora={"rank": 6, "num_layers": 2}, validation_split=0.25)
    assert grown["lora"]["rank"] == 6
    assert grown["lora"]["scale"] == 4.0
    ended = product.events(first["id"], "validation")[-1]["loss"]
    began = product.events(grown["id"], "validation")[0]["loss"]
    assert began == pytest.approx(ended, abs=1e-5)
    assert_served_as_trained(product, "tiny:shape", grown["revision"])


def test_rule_7_a_revision_directory_loads_in_mlx_lm_as_it_lies(product: Product) -> None:
    """Nothing needs to be converted to leave."""
    stage = product.train("leaves", BOATS)
    names = {path.name for path in product.revision_dir(stage["revision"]).iterdir()}
    assert names == {"adapters.safetensors", "adapter_config.json", "manifest.json"}
    assert_served_as_trained(product, "tiny:leaves", stage["revision"])


def test_rule_8_numbers_rise_and_are_never_used_again(product: Product) -> None:
    """Also after a cancelled stage, and after moving the head back."""
    product.train("numbers", BOATS)
    long = product.add("numbers", BOATS, epochs=1000)
    product.wait(long["id"], until="running")
    product.ok(product.http.post(f"/admin/stages/{long['id']}/cancel", json={}))
    assert product.wait(long["id"])["status"] == "cancelled"
    third = product.train("numbers", BREAD)
    assert third["number"] == 3
    product.ok(product.http.post("/admin/chains/numbers/rollback", json={"revision": 1}))
    fourth = product.train("numbers", BREAD)
    assert fourth["number"] == 4
    assert fourth["parent"] != third["revision"]
    message = error_of(product.chat("tiny:numbers@2", "hi"), 404, "model_not_found")
    assert "cancelled" in message
    assert product.answer("tiny:numbers@3", "What is dough?")


def test_rule_9_stages_of_a_chain_queue_in_order_and_a_named_parent_must_be_the_head(
    product: Product,
) -> None:
    """The second continues the first; one that names an overtaken parent fails and harms nobody."""
    product.train("queue", BOATS)
    second = product.add("queue", BREAD, epochs=3)
    named = product.add("queue", BREAD, parent=1)
    assert product.wait(second["id"])["status"] == "succeeded"
    late = product.wait(named["id"])
    assert (late["status"], late["error"]["code"]) == ("failed", "parent_moved")
    error_of(product.ask("queue", BREAD, parent=1), 409, "parent_moved")
    fourth = product.train("queue", BOATS, parent=2)
    assert (
        fourth["parent"]
        == product.ok(product.http.get(f"/admin/stages/{second['id']}"))["revision"]
    )


def test_rule_10_heads_labels_and_parents_are_protected(product: Product) -> None:
    """A refusal names what protects the revision; what is not protected goes."""
    product.train("protected", BOATS)
    product.train("protected", BREAD)
    product.ok(product.http.put("/admin/chains/protected/labels/stable", json={"revision": 1}))
    delete = "/admin/chains/protected/revisions/"
    assert "head" in error_of(product.http.delete(f"{delete}2"), 409, "revision_protected")
    assert "stable" in error_of(product.http.delete(f"{delete}1"), 409, "revision_protected")
    assert product.answer("tiny:protected@stable", "What is a sail?")
    product.ok(product.http.delete("/admin/chains/protected/labels/stable"))
    running = product.add("protected", BOATS, epochs=1000)
    product.wait(running["id"], until="running")
    product.ok(product.http.post("/admin/chains/protected/rollback", json={"revision": 1}))
    message = error_of(product.http.delete(f"{delete}2"), 409, "revision_protected")
    assert running["id"] in message
    product.ok(product.http.post(f"/admin/stages/{running['id']}/cancel", json={}))
    product.wait(running["id"])
    product.ok(product.http.delete(f"{delete}2"))


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


def test_a_head_that_was_moved_while_a_stage_ran_stays_where_it_is(product: Product) -> None:
    """The stage keeps what it learned under its number, and says what happened."""
    product.train("moved", BOATS)
    second = product.train("moved", BREAD)
    third = product.add("moved", BOATS, epochs=60)
    product.wait(third["id"], until="running")
    product.ok(product.http.post("/admin/chains/moved/rollback", json={"revision": 1}))
    ended = product.wait(third["id"])
    assert (ended["status"], ended["parent"]) == ("succeeded", second["revision"])
    assert product.ok(product.http.get("/admin/chains/moved"))["head"] == 1
    assert product.answer("tiny:moved@3", "What is dough?")
    warning = product.events(third["id"], "warning")[-1]["message"]
    assert "moved to stage 1 while this stage ran" in warning
