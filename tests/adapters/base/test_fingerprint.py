"""A base's identity: changed by what changes answers, and by nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapters.base.fingerprint import fingerprint
from adapters.base.weights import checked_tensors
from adapters.errors import BaseError

Change = Callable[[Path], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model directory, of no architecture in particular."""
    directory = tmp_path / "model"
    directory.mkdir()
    tensors: dict[str, Any] = {
        "layer.weight": np.arange(12, dtype=np.uint32).reshape(3, 4),
        "layer.scales": np.ones((3, 1), np.float16),
        "norm": np.ones(4, np.float32),
    }
    save_file(tensors, directory / "model.safetensors", {"format": "mlx"})
    quantization = {"group_size": 32, "bits": 4}
    write(directory / "config.json", {"quantization": quantization, "model_type": "llama"})
    write(directory / "tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1}}, "version": "1.0"})
    write(directory / "tokenizer_config.json", {"chat_template": "{{ x }}", "eos_token": "b"})
    return directory


def write(file: Path, content: dict[str, Any], **how: Any) -> None:
    """A JSON file."""
    file.write_text(json.dumps(content, **how), encoding="utf-8")


def edit(file: str, **changes: Any) -> Change:
    """A change to one JSON file."""

    def change(model: Path) -> None:
        write(model / file, json.loads((model / file).read_text()) | changes)

    return change


def reshard(model: Path) -> None:
    """The same tensors over two files, in another order."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    save_file({"norm": tensors.pop("norm")}, model / "model-00001-of-00002.safetensors")
    save_file(tensors, model / "model-00002-of-00002.safetensors")


def reformat(model: Path) -> None:
    """Other key order, spacing and escapes in all JSON files."""
    for file in model.glob("*.json"):
        content = json.loads(file.read_text())
        write(file, dict(reversed(content.items())), indent=3, ensure_ascii=False)


def own_file(text: str) -> Change:
    """The chat template in the file of its own that newer converters write."""

    def change(model: Path) -> None:
        (model / "chat_template.jinja").write_text(text)

    return change


def both_keys(model: Path) -> None:
    """Quantization under both names, as mlx-lm writes it."""
    config = json.loads((model / "config.json").read_text())
    write(model / "config.json", config | {"quantization_config": config["quantization"]})


def add_readme(model: Path) -> None:
    """A file that no part of the model reads."""
    (model / "README.md").write_text("hello")


def tensor(name: str, change: Callable[[Any], Any]) -> Change:
    """A change to one tensor."""

    def apply(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        tensors[name] = change(tensors[name])
        save_file(tensors, model / "model.safetensors")

    return apply


def rename(model: Path) -> None:
    """Another name for the same bytes."""
    tensors = load_file(model / "model.safetensors")
    tensors["other"] = tensors.pop("norm")
    save_file(tensors, model / "model.safetensors")


SAME: dict[str, Change] = {
    "shards": reshard,
    "json": reformat,
    "template-file": own_file("{{ x }}"),
    "both-keys": both_keys,
    "eos": edit("tokenizer_config.json", eos_token="a"),
    "readme": add_readme,
}
OTHER: dict[str, Change] = {
    "value": tensor("norm", lambda a: a * 2),
    "type": tensor("norm", lambda a: a.view(np.uint32)),
    "shape": tensor("layer.weight", lambda a: a.reshape(4, 3)),
    "name": rename,
    "quantization": edit("config.json", quantization={"group_size": 64, "bits": 4}),
    "vocabulary": edit("tokenizer.json", model={"vocab": {"a": 1, "b": 0}}),
    "template": edit("tokenizer_config.json", chat_template="{{ y }}"),
    "template-file": own_file("{{ y }}"),
    "no-tokenizer": lambda model: (model / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_leaves_the_answers_alone_leaves_the_identity(change: Change, model: Path) -> None:
    """A chain made on one machine must find its base on another."""
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) == before


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_changes_the_answers_changes_the_identity(change: Change, model: Path) -> None:
    """An adapter on another base is another model, silently."""
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) != before


def test_the_place_does_not_matter(model: Path, tmp_path: Path) -> None:
    """A copy is the same base."""
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert fingerprint(copy) == fingerprint(model)


def test_a_sentencepiece_file_counts_where_it_is_the_vocabulary(model: Path) -> None:
    """Older models have tokenizer.model alone; beside tokenizer.json it is not read."""
    before = fingerprint(model)
    (model / "tokenizer.model").write_bytes(b"one")
    assert fingerprint(model) == before
    (model / "tokenizer.json").unlink()
    one = fingerprint(model)
    (model / "tokenizer.model").write_bytes(b"two")
    assert fingerprint(model) != one


def test_the_definition_is_fixed(model: Path) -> None:
    """Fingerprints lie in every lineage record: the definition may only change with its name."""
    assert fingerprint(model) == (
        "b0dd4aa3646a1e65bb3a04e2f49e6424f4a3c690da77e70b6c53f63c95f65402"
    )


def test_the_embedded_model_is_the_same_base_everywhere(embedded_model: Path) -> None:
    """Chains on it travel between machines, so its identity is a constant of the product."""
    assert fingerprint(embedded_model) == (
        "acbdbac6a29dfffb59697c35c0b8bf99c764f04e6fb53fb376710edc3aaae2d8"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", None),
        ("tokenizer.json", "\x00"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused(
    file: str, content: str | None, model: Path
) -> None:
    """No identity is made up for half a model."""
    if content is None:
        (model / file).unlink()
    else:
        (model / file).write_text(content)
    with pytest.raises(BaseError, match=file):
        fingerprint(model)


def test_a_file_that_shrinks_under_the_reader_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header was sound when it was checked; the bytes are gone when they are read."""
    tensors = checked_tensors(model)
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    monkeypatch.setattr("adapters.base.fingerprint.checked_tensors", lambda _: tensors)
    with pytest.raises(BaseError, match="became shorter"):
        fingerprint(model)
