"""What the prefix cache holds of one head never answers for another."""

from __future__ import annotations

from typing import Any

from adapters.base.tokenizer import load_tokenizer
from tests.acceptance.extending.product import Json, Product, said
from tests.acceptance.extending.test_rules import BOATS, BREAD
from tests.equality import assert_same_tokens, solo_greedy

LONG = "Tell me about bread. " * 20
TOKENS = 24


def ask(product: Product, name: str, **fields: Any) -> tuple[Json, int]:
    """The answer to a long prompt, and how many of its tokens were not computed."""
    fields = {"max_tokens": TOKENS, "logprobs": True, "top_logprobs": 1, **fields}
    body = product.ok(product.chat(name, LONG, **fields))
    return body, body["usage"]["prompt_tokens_details"]["cached_tokens"]


def assert_is_of(product: Product, body: Json, revision: str | None) -> None:
    """Hold an answer to what plain mlx-lm says with that revision's directory."""
    tokenizer = load_tokenizer(product.model_dir)
    prompt = tokenizer.encode_chat([{"role": "user", "content": LONG}], template_kwargs={})
    directory = None if revision is None else product.revision_dir(revision)
    solo = solo_greedy(product.model_dir, directory, prompt, TOKENS)
    ids = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    spoken = body["choices"][0]["logprobs"]["content"]
    tokens = [ids[bytes(each["bytes"])] for each in spoken]
    assert tokens, said(body)
    count = len(tokens)
    assert_same_tokens([solo.tokens[:count]], [tokens], [solo.margins[:count]])


def test_a_head_that_moves_finds_nothing_of_the_one_before(product: Product) -> None:
    """FACTS 4, case 3: the first answer after it is the new revision's, and so back and forth."""
    first = product.train("warm", BOATS)["revision"]
    assert ask(product, "tiny:warm")[1] == 0
    again, reused = ask(product, "tiny:warm")
    assert reused > 100
    assert_is_of(product, again, first)
    second = product.train("warm", BREAD)["revision"]
    assert second != first
    moved, reused = ask(product, "tiny:warm")
    assert reused == 0
    assert_is_of(product, moved, second)
    product.ok(product.http.post("/admin/chains/warm/rollback", json={"revision": 1}))
    back, reused = ask(product, "tiny:warm")
    assert reused > 100
    assert_is_of(product, back, first)
    base, reused = ask(product, "tiny")
    assert reused < 10, "more than the template's first tokens"
    assert_is_of(product, base, None)


def test_a_deleted_revision_takes_its_prefixes_along(product: Product) -> None:
    """FACTS 4, case 6: the memory returns."""
    product.train("gone", BOATS, learning_rate=1e-3)
    before = stats(product)["prefix_cache_bytes"]
    ask(product, "tiny:gone")
    assert stats(product)["prefix_cache_bytes"] > before
    product.train("gone", BREAD)
    product.ok(product.http.delete("/admin/chains/gone/revisions/1"))
    ask(product, "tiny:gone@2", max_tokens=1)
    product.ok(product.http.delete("/admin/chains/gone"))
    assert product.chat("tiny", "hi", max_tokens=1).status_code == 200
    assert stats(product)["prefix_cache_bytes"] - before < 1 << 18


def stats(product: Product) -> Json:
    """``/admin/engine``'s."""
    found: Json = product.ok(product.http.get("/admin/engine"))["stats"]
    return found
