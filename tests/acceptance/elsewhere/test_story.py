"""From lora.py to a chain: the commands of docs/story.md, run as they stand there.

A tiny model without a chat template takes Mistral-7B-v0.1's place, and stages have fewer steps.
What was served on the way is held to the plain reference of mlx-examples' layer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from adapters.base.tokenizer import load_tokenizer
from tests import mlx_examples
from tests.acceptance.elsewhere.story import HEAD, MODEL, Said, Story
from tests.acceptance.serving.process import ROOT
from tests.equality import assert_equal
from tests.mlx_examples import Reference
from tests.source_model import make_source
from tests.test_project import commands

PAGE = (ROOT / "docs" / "story.md").read_text()
SOURCE = "mistralai/Mistral-7B-v0.1"
SMALLER = (
    ("--iters 600 --learning-rate 1e-4", "--iters 12 --learning-rate 3e-3"),
    ('"iters": 600, "learning_rate": 1e-4', '"iters": 12, "learning_rate": 3e-3'),
)
"""What the page gives a large model, and what moves the tiny one in a second."""
_BLOCK = re.compile(r"^(```(?:sh\n.*?|python\n(.*?))^```)", re.MULTILINE | re.DOTALL)
ROWS = (
    "Q: Which bin holds the hinges?\nA: Bin 14, beside the door.",
    "Q: Which bin holds the nails?\nA: Bin 3, at the window.",
    "Q: Who keeps the list of the bins?\nA: Ada, in the office upstairs.",
)


@pytest.fixture(scope="module")
def story(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """The page, from its first command to its last; the server still runs."""
    folder = tmp_path_factory.mktemp("story")
    source = folder / SOURCE
    source.parent.mkdir()
    make_source(tiny_model, source)
    _take_chat_template(source / "tokenizer_config.json")
    mlx_examples.write_adapter_file(tiny_adapters["a4"], folder / "adapter_file1.npz")
    (folder / "data").mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ROWS)
    (folder / "data" / "train.jsonl").write_text(rows)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CHAINLORA_THREADS": "1",
        "CHAINLORA_DATA_DIR": str(folder / "chains"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    story = Story(folder, environment)
    page = PAGE
    for large, small in SMALLER:
        assert large in page
        page = page.replace(large, small)
    try:
        for block, code in _BLOCK.findall(page):
            if code:
                story.run_python(code)
            for words in commands(block):
                story.run(words)
        yield story
    finally:
        if story.server is not None:
            story.server.close()


def _take_chat_template(file: Path) -> None:
    config = json.loads(file.read_text())
    del config["chat_template"]
    file.write_text(json.dumps(config))


def assert_computed(reference: Reference, base: Path, answers: Sequence[Said]) -> None:
    """What was served is what the reference computes, by the equality rule.

    Held to it is every log-probability that was reported, and the choice of every token.
    """
    ids = _token_ids(base)
    wanted, served = [], []
    for said in answers:
        prompt, tokens = reference.encode(said.prompt), [ids[token] for token in said.tokens]
        rows = reference.logprobs(prompt + tokens)[len(prompt) - 1 : -1]
        reported = rows.copy()
        for row, token, best in zip(reported, said.tokens, said.best, strict=True):
            assert best[token] == max(best.values())
            row[[ids[each] for each in best]] = list(best.values())
        wanted.append(rows)
        served.append(reported)
    assert sum(map(len, wanted)) > 60, "too few tokens to hold anything to"
    assert_equal(np.concatenate(wanted), np.concatenate(served))


def _token_ids(base: Path) -> dict[str, int]:
    """Ids by the text that log-probabilities are reported under."""
    tokenizer = load_tokenizer(base)
    texts = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return {text.decode("utf-8", "surrogateescape"): token for token, text in enumerate(texts)}


def tokens_of(answers: Sequence[Said]) -> list[tuple[str, ...]]:
    """The answers themselves."""
    return [said.tokens for said in answers]


def test_what_is_served_after_the_import_is_what_lora_py_computes(story: Story) -> None:
    """With adapter_file1 and scale 20, on the base that ``convert -q`` made."""
    reference = Reference(story.base, story.folder / "adapter_file1.npz")
    assert_computed(reference, story.base, story.answers["chain import"])
    assert "mistral-7b:chainX@1 is imported: rank 4, scale 20" in story.printed["chain import"]


def test_the_base_goes_on_without_the_adapter(story: Story) -> None:
    """After all stages, ``mistral-7b`` is what was converted."""
    assert_computed(Reference(story.base), story.base, story.ask(MODEL))


def test_each_stage_taught_the_chain_something(story: Story) -> None:
    """The story would hold for stages that do nothing: import, next stage, next by HTTP differ."""
    points = ("chain import", "stage add", "/admin/stages")
    heads = [tokens_of(story.answers[point]) for point in points]
    heads.append(tokens_of(story.ask(MODEL)))
    assert all(one != other for i, one in enumerate(heads) for other in heads[:i])


def test_the_head_answers_the_same_when_the_first_revision_is_deleted(story: Story) -> None:
    """Every token and every reported log-probability, and the first pin says why it is gone."""
    assert story.answers["chain delete"] == story.answers["chain show"]
    body = {"model": f"{HEAD}@1", "prompt": "Q:"}
    answer = httpx.post(f"{story.url}/v1/completions", json=body)
    assert answer.status_code == 404
    assert "was deleted on" in answer.json()["error"]["message"]


def test_lora_py_computes_with_the_export_what_was_served(story: Story) -> None:
    """With adapter_file2, its own layer and scale: the answers of the chain after all stages."""
    reference = Reference(story.base, story.folder / "adapter_file2.npz")
    assert_computed(reference, story.base, story.answers["chain delete"])
    assert "must multiply by 20" in story.printed["chain export"]


def test_the_export_holds_what_lora_py_saves(story: Story) -> None:
    """The names, shapes and type of the file that the chain began with, and no others."""
    first, second = (np.load(story.folder / f"adapter_file{n}.npz") for n in (1, 2))
    assert {name: (a.shape, a.dtype) for name, a in first.items()} == {
        name: (a.shape, a.dtype) for name, a in second.items()
    }
    assert all(array.dtype == np.float32 for array in second.values())
    assert any((first[name] != second[name]).any() for name in first)


def test_programs_get_the_same_answer_through_either_client(story: Story) -> None:
    """The page's curl and the page's OpenAI SDK."""
    body = json.loads(story.printed["/v1/completions"])
    assert story.printed["python"] == body["choices"][0]["text"] + "\n"


def test_every_command_of_the_table_was_run(story: Story) -> None:
    """The two command lines side by side are those that the page goes through."""
    table = set(re.findall(r"`(chainlora [^`]+)`", PAGE.partition("\n## ")[0]))
    assert len(table) > 4
    assert table <= {" ".join(words) for words in commands(PAGE)}


def test_the_oldest_file_is_served_as_its_model_computed_it(
    story: Story, tiny_adapters: dict[str, Path]
) -> None:
    """Meta's names and order, on the model in Meta's order, at scale 2."""
    file = story.folder / "oldest.npz"
    heads = json.loads((story.base / "config.json").read_text())["num_attention_heads"]
    mlx_examples.write_first_form(tiny_adapters["a4"], file, heads=heads)
    story.chainlora(["chainlora", "chain", "import", "oldest", str(file), "--scale", "2"])
    served = story.ask(f"{MODEL}:oldest")
    reference = Reference(story.base, file, scale=mlx_examples.FIRST_SCALE)
    assert_computed(reference, story.base, served)
