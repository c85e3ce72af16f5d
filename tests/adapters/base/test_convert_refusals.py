"""What cannot be converted is refused, and whatever fails leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adapters.base import convert
from adapters.base.convert import Quantization, convert_model
from adapters.base.device import device_kind
from adapters.errors import BaseError, StorageFull
from tests.source_model import make_source

TEXT = "The harbour wakes before the town does. At four in the morning the first lamp is lit."


@pytest.fixture(scope="module")
def source(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconverted Mistral-shaped directory."""
    return make_source(tiny_model, tmp_path_factory.mktemp("hub") / "source")


def silent(_: str) -> None:
    """Nobody looks."""


def digests(directory: Path) -> dict[str, str]:
    """What lies in a directory, by content."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.rglob("*")
        if file.is_file()
    }


def test_nothing_that_exists_is_overwritten(source: Path, tmp_path: Path) -> None:
    """Neither a file, an empty directory nor a dangling link; the source stays as it is too."""
    before = digests(source)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "empty", "link"):
        with pytest.raises(FileExistsError, match="not overwritten"):
            convert_model(source, tmp_path / name, progress=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link"]
    assert digests(source) == before


def test_a_conversion_that_fails_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the converter fails nor where its result does not load."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(convert, "mlx_lm_convert", broken)
    with pytest.raises(BaseError, match="no such layer"):
        convert_model(source, tmp_path / "out", progress=silent)
    monkeypatch.undo()
    monkeypatch.setattr(convert, "load_model", broken)
    with pytest.raises(BaseError, match="no such layer"):
        convert_model(source, tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[write] Unable to write 21143 bytes to file."),
        Exception("No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["MLX", "tokenizers", "the system"],
)
def test_a_full_disk_is_said_and_leaves_nothing(
    error: Exception, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of whichever library wrote: seen on a file system with too little room."""

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(convert, "mlx_lm_convert", full)
    with pytest.raises(StorageFull, match="out cannot be written, the disk is full"):
        convert_model(source, tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_known_before_the_text_is_scored(
    source: Path, tmp_path: Path
) -> None:
    """Scoring a large model takes minutes."""
    (tmp_path / "file").write_text("mine")
    said: list[str] = []
    with pytest.raises(OSError, match=r"file/out cannot be made \(File exists\)"):
        convert_model(source, tmp_path / "file" / "out", text=TEXT, progress=said.append)
    assert said == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("pickles", "pickles"),
        ("no weights", "no model"),
        ("torn", "not a sound safetensors file"),
        ("no config", "config.json"),
        ("list for a config", "config.json is no mapping"),
        ("no tokenizer", "no tokenizer"),
        ("unknown architecture", "could not be converted"),
        ("own code", "could not be converted"),
        ("quantized", "quantized already"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    damage: str, said: str, source: Path, tmp_path: Path
) -> None:
    """With what is wrong, before anything is written."""
    broken = shutil.copytree(source, tmp_path / "broken")
    first = broken / "model-00001-of-00002.safetensors"
    config = broken / "config.json"
    changes: dict[str, dict[str, Any]] = {
        "unknown architecture": {"model_type": "nobody"},
        "own code": {"model_file": "m.py"},
        "quantized": {"quantization": {"group_size": 64, "bits": 4}},
    }
    match damage:
        case "pickles" | "no weights":
            for file in broken.glob("*.safetensors"):
                file.unlink()
            if damage == "pickles":
                (broken / "pytorch_model.bin").write_bytes(b"\x80\x04")
        case "torn":
            first.write_bytes(first.read_bytes()[:-1])
        case "no config":
            config.unlink()
        case "list for a config":
            config.write_text("[]")
        case "no tokenizer":
            for file in broken.glob("tokenizer*"):
                file.unlink()
    if damage in changes:
        config.write_text(json.dumps(json.loads(config.read_bytes()) | changes[damage]))
    with pytest.raises(BaseError, match=said):
        convert_model(broken, tmp_path / "out", quantization=Quantization(), progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"a": "model-00001-of-00002.safetensors", "b": "gone.safetensors"}, "lacks 1 of the 2"),
        ([1], "index.json cannot be read"),
        ({"a": "model-00001-of-00002.safetensors"}, None),
    ],
)
def test_a_download_that_is_not_whole_is_named(
    named: Any, said: str | None, source: Path, tmp_path: Path
) -> None:
    """By what the index of the weights names, before anything is loaded."""
    broken = shutil.copytree(source, tmp_path / "broken")
    index = broken / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": named}))
    if said is None:
        convert_model(broken, tmp_path / "out", progress=silent)
        return
    with pytest.raises(BaseError, match=said):
        convert_model(broken, tmp_path / "out", progress=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.skipif(device_kind() != "cpu", reason="a CPU holds the source in float32")
def test_a_check_that_cannot_fit_says_how_to_do_without(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded."""

    class Small:
        kind, memory_free_bytes = "cpu", 2_000_000

    monkeypatch.setattr(convert, "describe_device", Small)
    with pytest.raises(BaseError, match="--no-check"):
        convert_model(source, tmp_path / "out", text=TEXT, progress=silent)
    assert convert_model(source, tmp_path / "out", progress=silent).change is None
