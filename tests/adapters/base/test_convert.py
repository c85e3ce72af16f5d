"""Converting a Hugging Face directory: whole, equal to mlx-lm's own result, and servable."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

from adapters.base.convert import Quantization, convert_model
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


def test_matrices_that_a_group_size_does_not_divide_are_counted(
    source: Path, tmp_path: Path
) -> None:
    """mlx-lm leaves them as they are without a word; where none can be packed, it is refused."""
    narrow = _narrowed(source, tmp_path / "narrow", 352)
    done = convert_model(narrow, tmp_path / "out", quantization=Quantization(), progress=silent)
    assert (done.unpacked, done.matrices) == (4, 30)
    finer = Quantization(group_size=32)
    done = convert_model(narrow, tmp_path / "finer", quantization=finer, progress=silent)
    assert (done.unpacked, done.matrices) == (0, 30)
    with pytest.raises(BaseError, match="group size of 7 divides no width"):
        convert_model(
            narrow, tmp_path / "none", quantization=Quantization(group_size=7), progress=silent
        )
    assert not (tmp_path / "none").exists()


def _narrowed(source: Path, directory: Path, width: int) -> Path:
    """``source`` with the MLPs cut to ``width``."""
    shutil.copytree(source, directory)
    for file in directory.glob("*.safetensors"):
        loaded: Any = mx.load(str(file))
        cut = {
            name: array[:, :width] if "down_proj" in name else array[:width]
            for name, array in loaded.items()
            if ".mlp." in name
        }
        mx.eval(loaded, cut)
        mx.save_safetensors(str(file), {**loaded, **cut}, metadata={"format": "pt"})
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes()) | {"intermediate_size": width}))
    return directory


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
