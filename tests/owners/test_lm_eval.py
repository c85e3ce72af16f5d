"""lm-evaluation-harness scores the base and a chain over HTTP as mlx-lm's forward scores them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.base.tokenizer import load_tokenizer
from tests.acceptance.elsewhere.test_transfer import sent
from tests.acceptance.extending.product import Product
from tests.equality import NEAR, TOLERANCE, margins, solo_greedy, solo_logprobs
from tests.owners.environment import run_lm_eval

pytestmark = pytest.mark.slow

TASKS = Path(__file__).with_name("lm_eval_tasks")
MOST_TOKENS = 12
"""What ``harbour_said`` generates at most."""
PREFIX = 1
"""The token that the harness puts before a text to score all of it."""

DOCS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("What holds a boat in its place?", ("An anchor", "A sail", "A bell"), 0),
    ("What catches the wind?", ("The keel", "The sail", "The rope"), 1),
    ("Where do boats sleep?", ("On the hill", "In the oven", "In the harbour"), 2),
    ("What keeps a boat upright?", ("The keel, deep below", "Paint"), 0),
    ("Who reads the stars at night?", ("The baker", "The pilot"), 1),
    ("What turns a boat?", ("Ein Ruder für das Boot", "A loaf of bread"), 0),
    ("What is a café on a quay good for?", ("Sailing", "Waiting for the tide"), 1),
    ("What rings in the fog?", ("A bell", "A carrot", "A cloud", "A shoe"), 0),
)
"""A question, its choices, and which is right; our own words."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Scores of one model by mlx-lm's own forward, a text at a time."""

    model: Path
    adapter: Path | None

    def log_likelihood(self, context: Sequence[int], tokens: Sequence[int]) -> tuple[float, bool]:
        """Of ``tokens`` behind ``context``, and whether each is the likeliest beyond doubt."""
        rows = solo_logprobs(self.model, self.adapter, [*context, *tokens])
        rows = rows[len(context) - 1 : -1]
        found = [float(row[token]) for row, token in zip(rows, tokens, strict=True)]
        assert (margins(rows) > NEAR).all(), "a near tie: choose other words"
        return math.fsum(found), bool((rows.argmax(axis=1) == list(tokens)).all())

    def said(self, prompt: Sequence[int]) -> str:
        """The greedy text up to an end token or a blank line."""
        solo = solo_greedy(self.model, self.adapter, prompt, MOST_TOKENS)
        assert min(solo.margins) > NEAR, "a near tie: choose other words"
        tokenizer = load_tokenizer(self.model)
        spelled = tokenizer.detokenizer()
        text = ""
        for token in solo.tokens:
            if token in tokenizer.end_tokens:
                break
            text += spelled.add(token)
        return (text + spelled.finish()).partition("\n\n")[0]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run of the harness leaves: its scores, and its samples by task."""

    scores: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]


def evaluated(product: Product, name: str, folder: Path, *, batch: int) -> Evaluation:
    """Run all tasks of ``TASKS`` on the model ``name``, ``batch`` prompts in a request."""
    settings = {
        "model": name,
        "base_url": f"{product.url}/v1/completions",
        "tokenizer": product.model_dir,
        "tokenizer_backend": "huggingface",
        "custom_prefix_token_id": PREFIX,
        "max_length": 512,
    }
    model = ",".join(f"{key}={value}" for key, value in settings.items())
    arguments = ["--model", "local-completions", "--model_args", model]
    arguments += ["--tasks", "harbour_choice,harbour_said,harbour_text", "--include_path", "."]
    arguments += ["--batch_size", str(batch), "--output_path", "out", "--log_samples"]
    run_lm_eval(arguments, folder)
    (results,) = folder.glob("out/*/results_*.json")
    samples = {}
    for file in results.parent.glob("samples_*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        samples[task] = sorted(lines, key=lambda line: int(line["doc_id"]))
    return Evaluation(json.loads(results.read_text())["results"], samples)


def prepared(folder: Path, answers: Sequence[str]) -> None:
    """The tasks and their data; of every second document ``answers`` has what is to be said."""
    for file in TASKS.glob("*.yaml"):
        shutil.copy(file, folder)
    with (folder / "harbour.jsonl").open("w") as lines:
        for number, ((question, choices, answer), said) in enumerate(
            zip(DOCS, answers, strict=True)
        ):
            target = said if number % 2 else "something else"
            line = {"question": question, "choices": choices, "answer": answer, "said": target}
            lines.write(f"{json.dumps(line)}\n")


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("adapter", [None, "b8"])
def test_the_harness_finds_what_a_forward_of_mlx_lm_gives(
    product: Product,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    adapter: str | None,
    batch: int,
) -> None:
    """Choices by log-likelihood, greedy answers and texts as a whole; one by one and in lists."""
    name, path = "tiny", None
    if adapter is not None:
        name, path = f"tiny:{adapter}-{batch}", tiny_adapters[adapter]
        product.ok(sent(product, f"{adapter}-{batch}", path))
    reference = Reference(product.model_dir, path)
    encode = load_tokenizer(product.model_dir).encode
    asked = [f"Question: {question}\nAnswer:" for question, _, _ in DOCS]
    said = [reference.said(encode(each)) for each in asked]
    prepared(tmp_path, said)
    found = evaluated(product, name, tmp_path, batch=batch)

    right = 0
    for sample, context, (_, choices, answer) in zip(
        found.samples["harbour_choice"], asked, DOCS, strict=True
    ):
        expected = []
        for choice, ((value, greedy),) in zip(choices, sample["resps"], strict=True):
            behind = encode(f"{context} {choice}")[len(encode(context)) :]
            expected.append(reference.log_likelihood(encode(context), behind))
            assert abs(expected[-1][0] - float(value)) <= TOLERANCE * len(behind)
            assert expected[-1][1] == (greedy == "True")
        right += max(expected)[0] == expected[answer][0]
    assert found.scores["harbour_choice"]["acc,none"] == right / len(DOCS)

    assert [sample["resps"][0][0] for sample in found.samples["harbour_said"]] == said
    assert found.scores["harbour_said"]["exact_match,none"] == 0.5

    for sample, (question, _, _) in zip(found.samples["harbour_text"], DOCS, strict=True):
        value, _ = reference.log_likelihood([PREFIX], encode(question))
        assert abs(value - float(sample["resps"][0][0])) <= TOLERANCE * len(encode(question))
