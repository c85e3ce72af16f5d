"""Converting a Hugging Face directory: whole, equal to mlx-lm's own result, and servable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

from adapters.base import convert
from adapters.base.convert import Quantization, convert_model, new_directory
from adapters.base.device import device_kind
from adapters.base.fingerprint import fingerprint
from adapters.base.load import load_base
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import BaseError
from tests.source_model import SLIDING_WINDOW, make_source

TEXT = "The harbour wakes before the town does. At four in the morning the first lamp is lit."


@pytest.fixture(scope="module")
def source(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconverted Mistral-shaped directory."""
    return make_source(tiny_model, tmp_path_factory.mktemp("hub") / "source")


def silent(_: str) -> None:
    """Nobody looks."""


def arrays(path: Path) -> dict[str, mx.array]:
    """The arrays of a converted directory."""
    loaded: Any = mx.load(str(path / "model.safetensors"))
    return dict(loaded)


def digests(directory: Path) -> dict[str, str]:
    """What lies in a directory, by content."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(
    ("packing", "bits"),
    [
        (Quantization(), {4}),
        (Quantization(bits=2, group_size=32), {2}),
        (Quantization(bits=3), {3}),
        (Quantization(bits=6, group_size=128), {6}),
        (Quantization(bits=8), {8}),
        (Quantization(recipe="mixed_2_6"), {2, 6}),
        (Quantization(recipe="mixed_3_4"), {3, 4}),
    ],
    ids=str,
)
def test_a_quantized_model_is_the_one_that_mlx_lm_makes(
    packing: Quantization, bits: set[int], source: Path, tmp_path: Path
) -> None:
    """Bit by bit where one width is asked for; a recipe mixes its two. The result loads as a base.

    A recipe never quantizes all with the few bits.
    """
    done = convert_model(source, tmp_path / "out", quantization=packing, progress=silent)
    found = arrays(done.path)
    model: Any = load_base(done.path).model
    assert {layer.bits for _, layer in model.named_modules() if hasattr(layer, "bits")} == bits
    config = json.loads((done.path / "config.json").read_bytes())
    assert config["quantization"]["group_size"] == packing.group_size
    assert config["sliding_window"] == SLIDING_WINDOW
    assert done.bytes_after == sum(array.nbytes for array in found.values()) < done.bytes_before
    assert done.change is None
    if packing.recipe is None:
        plain, settings = load_model(source)
        with contextlib.redirect_stdout(None):
            quantize_model(plain, settings, packing.group_size, packing.bits)
        expected = dict(tree_flatten(plain.parameters()))
        assert sorted(found) == sorted(expected)
        assert all(mx.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
def test_without_quantization_the_number_format_alone_changes(
    dtype: str | None, source: Path, tmp_path: Path
) -> None:
    """None keeps what config.json names, and the configuration tells what is in the file."""
    out = convert_model(source, tmp_path / "out", dtype=dtype, progress=silent).path
    expected = getattr(mx, dtype or "bfloat16")
    assert {array.dtype for array in arrays(out).values()} == {expected}
    config = json.loads((out / "config.json").read_bytes())
    assert config["torch_dtype"] == (dtype or "bfloat16")
    assert "quantization" not in config


def test_a_conversion_that_changes_nothing_scores_the_same(source: Path, tmp_path: Path) -> None:
    """The check's own noise is none: both models are computed in the same way."""
    done = convert_model(source, tmp_path / "out", text=TEXT, progress=silent)
    assert done.change is not None
    assert (done.change.largest, done.change.agreement, done.change.rise) == (0, 1, 0)
    assert fingerprint(done.path)


def test_fewer_bits_change_more(source: Path, tmp_path: Path) -> None:
    """The check tells a good form from a poor one, on a text that the model knows."""
    apart = []
    for bits in (8, 4, 2):
        packing = Quantization(bits=bits)
        done = convert_model(
            source, tmp_path / str(bits), quantization=packing, text=TEXT, progress=silent
        )
        assert done.change is not None
        apart.append(done.change.mean)
    assert apart == sorted(apart)
    assert apart[0] < 0.02 < 0.5 < apart[-1]


def test_the_tokenizer_and_its_template_come_along(source: Path, tmp_path: Path) -> None:
    """Same ids for text and for a conversation."""
    out = convert_model(source, tmp_path / "out", progress=silent).path
    before, after = load_tokenizer(source), load_tokenizer(out)
    said = [{"role": "user", "content": "Where is the harbour?"}]
    assert after.encode(TEXT) == before.encode(TEXT)
    assert after.encode_chat(said, template_kwargs={}) == before.encode_chat(
        said, template_kwargs={}
    )
    assert after.end_tokens == before.end_tokens


def test_code_of_the_model_s_is_neither_run_nor_copied(source: Path, tmp_path: Path) -> None:
    """A directory may bring a Python file; it stays behind."""
    armed = shutil.copytree(source, tmp_path / "armed")
    trap = tmp_path / "ran"
    (armed / "modeling.py").write_text(f"open({str(trap)!r}, 'w')")
    out = convert_model(armed, tmp_path / "out", progress=silent).path
    assert not trap.exists()
    assert not list(out.glob("*.py"))


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


def test_a_directory_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Whoever made it first has it."""

    def write() -> Iterator[None]:
        with new_directory(tmp_path / "a" / "out") as part:
            (part / "file").write_text("ours")
            yield
            (tmp_path / "a" / "out").mkdir()

    with pytest.raises(FileExistsError):
        list(write())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert list((tmp_path / "a" / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("pickles", "pickles"),
        ("no weights", "no model"),
        ("torn", "not a sound safetensors file"),
        ("no config", "config.json"),
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
        case "no tokenizer":
            for file in broken.glob("tokenizer*"):
                file.unlink()
    if damage in changes:
        config.write_text(json.dumps(json.loads(config.read_bytes()) | changes[damage]))
    with pytest.raises(BaseError, match=said):
        convert_model(broken, tmp_path / "out", quantization=Quantization(), progress=silent)
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


def test_progress_may_print(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What mlx-lm says arrives line by line, and nothing is printed around it."""
    convert_model(source, tmp_path / "out", quantization=Quantization(), progress=print)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "Converting.",
        "Loading.",
        "Using dtype: bfloat16.",
        "Quantizing.",
        "Quantized model with 4.514 bits per weight.",
        "Reading what was written.",
    ]
    assert err == ""
