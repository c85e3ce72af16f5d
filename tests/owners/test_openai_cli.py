"""OpenAI's own command line, from the last version of its package that has one, on a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.extending.product import Product
from tests.acceptance.fine_tuning.asking import BASE, BOATS, jsonl
from tests.owners.environment import Refused, run_openai_cli

pytestmark = pytest.mark.slow

HYPERPARAMETERS = json.dumps({"n_epochs": 2, "batch_size": 1})
LONG = json.dumps({"n_epochs": 50, "batch_size": 1})


class Cli:
    """``openai api`` against one server."""

    def __init__(self, product: Product) -> None:
        self._url = f"{product.url}/v1"

    def said(self, *arguments: str) -> str:
        """What it prints."""
        return run_openai_cli(self._url, *arguments)

    def all(self, *arguments: str) -> list[Any]:
        """The JSON objects that it prints, one after the other."""
        return list(_objects(self.said(*arguments)))

    def one(self, *arguments: str) -> Any:
        """The one JSON object that it prints."""
        (found,) = self.all(*arguments)
        return found


def _objects(text: str) -> Iterator[Any]:
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        found, at = decoder.raw_decode(text, at)
        yield found


@pytest.fixture(scope="module")
def cli(product: Product) -> Cli:
    """The command line."""
    return Cli(product)


@pytest.fixture(scope="module")
def file(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An uploaded file's id."""
    path = tmp_path_factory.mktemp("rows") / "boats.jsonl"
    path.write_bytes(jsonl(BOATS))
    made = cli.one("files.create", "-f", str(path), "-p", "fine-tune")
    assert (made["status"], made["purpose"]) == ("processed", "fine-tune")
    return str(made["id"])


def test_a_chain_is_taught_and_asked(cli: Cli, product: Product, file: str) -> None:
    """From the file to the chat with the job's model, and the model's deletion refused."""
    assert file in [each["id"] for each in cli.all("files.list")]
    asked = ("-m", BASE, "-F", file, "-s", "called", "-H", HYPERPARAMETERS)
    job = cli.one("fine_tuning.jobs.create", *asked)
    product.wait(job["id"].removeprefix("ftjob-"))
    job = cli.one("fine_tuning.jobs.retrieve", "-i", job["id"])
    assert (job["status"], job["fine_tuned_model"]) == ("succeeded", f"{BASE}:called@1")
    events = cli.one("fine_tuning.jobs.list_events", "-i", job["id"], "-l", "2")
    assert [each["object"] for each in events["data"]] == ["fine_tuning.job.event"] * 2
    assert events["data"][0]["message"] == "The job has succeeded."
    model = job["fine_tuned_model"]
    answer = product.answer(model, "What is a keel?")
    chat = ("chat.completions.create", "-m", model, "-g", "user", "What is a keel?")
    for how in ((), ("--stream",)):
        said = cli.said(*chat, "-t", "0", "-M", "16", *how)
        assert said.rstrip("\n") == answer.rstrip("\n")
    with pytest.raises(Refused, match="revision_protected"):
        cli.said("models.delete", "-i", f"{BASE}:called")


def test_a_job_is_cancelled(cli: Cli, product: Product, file: str) -> None:
    """And listed before the older ones."""
    asked = ("-m", BASE, "-F", file, "-s", "stopped", "-H", LONG)
    job = cli.one("fine_tuning.jobs.create", *asked)
    cli.one("fine_tuning.jobs.cancel", "-i", job["id"])
    product.wait(job["id"].removeprefix("ftjob-"))
    (newest,) = cli.one("fine_tuning.jobs.list", "-l", "1")["data"]
    assert (newest["id"], newest["status"]) == (job["id"], "cancelled")


def test_models_are_listed_seen_and_deleted(cli: Cli, product: Product) -> None:
    """An older revision goes by its pin."""
    for _ in range(2):
        product.train("listed", BOATS, epochs=1)
    assert {BASE, f"{BASE}:listed"} <= {each["id"] for each in cli.all("models.list")}
    pin = f"{BASE}:listed@1"
    assert cli.one("models.retrieve", "-i", pin)["id"] == pin
    assert cli.one("models.delete", "-i", pin) == {"id": pin, "deleted": True, "object": "model"}


def test_an_error_is_told_in_the_server_s_words(cli: Cli, file: str) -> None:
    """With its code and the field at fault."""
    with pytest.raises(Refused, match="model_not_found"):
        cli.said("fine_tuning.jobs.create", "-m", f"{BASE}:nobody", "-F", file)
