"""A chain that leaves as one model or as a directory computes there what is served here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.base.scores import check_text
from adapters.base.tokenizer import load_tokenizer
from server import cli
from tests.acceptance.extending.product import Product
from tests.acceptance.extending.test_rules import QUESTIONS, served_tokens
from tests.equality import assert_equal, assert_same_tokens, solo_greedy, solo_logprobs

WINDOW, TOKENS = 256, 512


def taken(
    product: Product, command: str, chain: str, out: Path, *options: str, capsys: Any
) -> dict[str, Any]:
    """What ``chain COMMAND --json`` says, run beside the server on its data directory."""
    arguments = ["chain", command, chain, str(out), *options, "--json", "--url", product.url]
    arguments += ["--data-dir", str(product.data_dir), "--model", str(product.model_dir)]
    assert cli.main(arguments) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def imported(product: Product, chain: str, adapter: Path) -> None:
    """A chain that begins with ``adapter``."""
    command = ["chain", "import", chain, str(adapter), "--json", "--url", product.url]
    assert cli.main(command) == 0


def assert_served_tokens(product: Product, name: str, model: Path, adapter: Path | None) -> None:
    """Plain mlx-lm gives the tokens that are served as ``name``, by the equality rule."""
    tokenizer = load_tokenizer(model)
    reference = []
    for question in QUESTIONS:
        message = {"role": "user", "content": question}
        prompt = tokenizer.encode_chat([message], template_kwargs={})
        reference.append(solo_greedy(model, adapter, prompt, 16, forbidden=tokenizer.end_tokens))
    assert_same_tokens(
        [solo.tokens for solo in reference],
        served_tokens(product, name),
        [solo.margins for solo in reference],
    )


def check_logprobs(model: Path, adapter: Path | None) -> np.ndarray:
    """Of every token that the check predicts, by plain mlx-lm in windows as the check has them."""
    tokens = load_tokenizer(model).encode(check_text(None))[:TOKENS]
    windows = [tokens[start : start + WINDOW] for start in range(0, len(tokens) - 1, WINDOW)]
    found = np.concatenate([solo_logprobs(model, adapter, window) for window in windows])
    return found[: len(tokens) - 1]


@pytest.mark.parametrize("adapter", ["b8", "d8"])
def test_a_fused_chain_gives_the_served_tokens_in_mlx_lm(
    adapter: str,
    product: Product,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dequantized, loaded by mlx_lm.load alone, by the equality rule."""
    imported(product, f"whole-{adapter}", tiny_adapters[adapter])
    capsys.readouterr()
    out = tmp_path / "out"
    row = taken(product, "fuse", f"whole-{adapter}", out, "--dtype", "float32", capsys=capsys)
    assert (row["warning"], row["check"]["agreement"]) == (None, 1.0)
    assert_served_tokens(product, f"tiny:whole-{adapter}", out, None)
    assert_equal(
        check_logprobs(product.model_dir, tiny_adapters[adapter]), check_logprobs(out, None)
    )


@pytest.mark.parametrize("options", [["--requantize"], []], ids=["requantized", "bfloat16"])
def test_the_change_that_is_told_is_what_plain_mlx_lm_finds(
    options: list[str],
    product: Product,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On half a thousand tokens: mean, largest, likeliest tokens and both perplexities."""
    chain = f"packed-{len(options)}"
    imported(product, chain, tiny_adapters["d8"])
    capsys.readouterr()
    told = taken(product, "fuse", chain, tmp_path / "out", *options, capsys=capsys)["check"]
    tokens = load_tokenizer(product.model_dir).encode(check_text(None))[:TOKENS]
    before = check_logprobs(product.model_dir, tiny_adapters["d8"])
    after = check_logprobs(tmp_path / "out", None)
    rows = np.arange(len(before)), np.array(tokens[1:])
    apart = np.abs(before[rows] - after[rows])
    assert told["tokens"] == len(before) == TOKENS - 1
    assert told["mean"] == pytest.approx(apart.mean(), abs=1e-4)
    assert told["largest"] == pytest.approx(apart.max(), abs=1e-3)
    same = (before.argmax(axis=1) == after.argmax(axis=1)).mean()
    assert told["agreement"] == pytest.approx(same, abs=0.005)
    for name, scored in (("before", before), ("after", after)):
        assert told[f"perplexity_{name}"] == pytest.approx(np.exp(-scored[rows].mean()), rel=1e-3)


def test_an_ejected_chain_gives_the_served_tokens_in_mlx_lm(
    product: Product,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Base and directory, as the first of the printed commands names them."""
    imported(product, "ejected", tiny_adapters["c16"])
    capsys.readouterr()
    row = taken(product, "eject", "ejected", tmp_path / "out", capsys=capsys)
    assert_served_tokens(product, "tiny:ejected", product.model_dir, tmp_path / "out")
    assert row["commands"][0].startswith("mlx_lm.generate --model ")
