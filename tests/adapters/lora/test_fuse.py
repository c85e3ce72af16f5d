"""Fusing: one model that answers as base and adapter do, or says how far it is from that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from adapters.base import convert, load
from adapters.base.device import device_kind
from adapters.base.fingerprint import fingerprint
from adapters.base.tokenizer import load_tokenizer
from adapters.errors import AdapterMismatch, BaseError, StorageFull
from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.lora import fuse
from adapters.lora.fuse import fuse_adapter
from adapters.shape import LoraShape
from tests.source_model import make_source

TEXT = (
    "User: Where is the bread?\nAssistant: The bread is in the blue tin beside the window, ma'am."
)
TOKENS = [[5, 80, 200, 311, 17, 42, 600, 3]]
NAMES = ("a4", "b8", "c16", "d8")


def silent(_: str) -> None:
    """Nobody looks."""


def log_probabilities(model: Any) -> np.ndarray:
    """In float32 on TOKENS."""
    model.set_dtype(mx.float32)
    logits = model(mx.array(TOKENS)).astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_dequantized_fusion_is_base_and_adapter(
    name: str, tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """Log-probabilities within 1e-3 of mlx-lm with the adapter, and mlx-lm alone loads it.

    In float32; the check agrees.
    """
    files = read_adapter(tiny_adapters[name])
    done = fuse_adapter(
        tiny_model, files, tmp_path / "out", dtype="float32", text=TEXT, progress=silent
    )
    adapted = mlx_lm.load(str(tiny_model), adapter_path=str(tiny_adapters[name]))[0]
    fused, tokenizer = mlx_lm.load(str(done.path))[:2]
    np.testing.assert_allclose(log_probabilities(fused), log_probabilities(adapted), atol=1e-3)
    assert done.change is not None
    assert (done.change.agreement, done.modules) == (1.0, len(files.tensors))
    assert done.change.largest < 1e-3
    assert tokenizer.encode(TEXT) == load_tokenizer(tiny_model).encode(TEXT)


@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
def test_a_dequantized_fusion_has_one_format(
    dtype: str | None, tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """The base's own, or the one that is asked for; nothing says quantized any more."""
    files = read_adapter(tiny_adapters["a4"])
    out = fuse_adapter(tiny_model, files, tmp_path / "out", dtype=dtype, progress=silent).path
    arrays: Any = mx.load(str(out / "model.safetensors"))
    assert {array.dtype for array in arrays.values()} == {getattr(mx, dtype or "bfloat16")}
    config = json.loads((out / "config.json").read_bytes())
    assert config["torch_dtype"] == (dtype or "bfloat16")
    assert not {"quantization", "quantization_config"} & set(config)


def test_quantizing_again_touches_the_targets_alone(
    tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """Every other array is the base's, bit for bit; the packing is the base's everywhere."""
    files = read_adapter(tiny_adapters["a4"])
    out = fuse_adapter(tiny_model, files, tmp_path / "out", requantize=True, progress=silent).path
    before: Any = mx.load(str(tiny_model / "model.safetensors"))
    after: Any = mx.load(str(out / "model.safetensors"))
    assert sorted(after) == sorted(before)
    changed = {name for name in after if not mx.array_equal(after[name], before[name])}
    assert {name.rpartition(".")[0] for name in changed} == set(files.tensors)
    assert all(
        (after[name].dtype, after[name].shape) == (before[name].dtype, before[name].shape)
        for name in after
    )


def test_an_adapter_that_adds_nothing_leaves_a_quantized_base_as_it_is(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Quantizing what was quantized finds the same values again, but for their last bits."""
    zeros = HostArray("F32", (4, 128), bytes(4 * 128 * 4))
    a = HostArray("F32", (128, 4), np.ones((128, 4), np.float32).tobytes())
    path = "model.layers.3.self_attn.q_proj"
    files = AdapterFiles(LoraShape(4, 2.0, 1, ("self_attn.q_proj",)), {path: (a, zeros)})
    done = fuse_adapter(
        tiny_model, files, tmp_path / "out", requantize=True, text=TEXT, progress=silent
    )
    assert done.change is not None
    assert done.change.mean < 0.05


def test_each_layer_is_packed_in_its_own_way(
    tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """Also where a recipe mixed two widths."""
    source = make_source(tiny_model, tmp_path / "source")
    packing = convert.Quantization(recipe="mixed_3_6")
    base = convert.convert_model(
        source, tmp_path / "base", quantization=packing, progress=silent
    ).path
    files = read_adapter(tiny_adapters["b8"])
    out = fuse_adapter(base, files, tmp_path / "out", requantize=True, progress=silent).path
    bits = []
    for directory in (base, out):
        model: Any = load.load_base(directory).model
        bits.append({name: m.bits for name, m in model.named_modules() if hasattr(m, "bits")})
    assert bits[0] == bits[1]
    assert set(bits[0].values()) == {3, 6}


def test_quantizing_again_costs_more_than_rounding(
    tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """The check measures both, against what is served."""
    files = read_adapter(tiny_adapters["d8"])
    apart = []
    for requantize in (False, True):
        done = fuse_adapter(
            tiny_model,
            files,
            tmp_path / str(requantize),
            requantize=requantize,
            text=TEXT,
            progress=silent,
        )
        assert done.change is not None
        assert done.quantized is requantize
        apart.append(done.change.mean)
    assert 5 * apart[0] < apart[1]


def test_a_base_without_quantization_is_fused_in_its_own_format(
    tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """There is nothing to quantize again, and asking for it says so."""
    source = make_source(tiny_model, tmp_path / "source")
    files = read_adapter(tiny_adapters["a4"])
    done = fuse_adapter(source, files, tmp_path / "out", text=TEXT, progress=silent)
    assert done.change is not None
    assert done.change.mean < 0.05
    assert done.bytes_before == done.bytes_after
    with pytest.raises(BaseError, match="not quantized"):
        fuse_adapter(source, files, tmp_path / "more", requantize=True, progress=silent)


def test_the_base_stays_as_it_is_and_the_result_is_another_base(
    tiny_model: Path, tiny_adapters: Mapping[str, Path], tmp_path: Path
) -> None:
    """A chain of the one cannot be taken for a chain of the other."""
    digest = hashlib.sha256((tiny_model / "model.safetensors").read_bytes()).digest()
    files = read_adapter(tiny_adapters["a4"])
    out = fuse_adapter(tiny_model, files, tmp_path / "out", requantize=True, progress=silent).path
    assert hashlib.sha256((tiny_model / "model.safetensors").read_bytes()).digest() == digest
    assert fingerprint(out) != fingerprint(tiny_model)


def test_an_adapter_of_another_base_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    a, b = HostArray("F32", (64, 1), bytes(256)), HostArray("F32", (1, 64), bytes(256))
    files = AdapterFiles(LoraShape(1, 2.0, -1, None), {"model.layers.0.self_attn.q_proj": (a, b)})
    with pytest.raises(AdapterMismatch, match="maps 128 to 128"):
        fuse_adapter(tiny_model, files, tmp_path / "out", progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_a_fusion_that_fails_leaves_nothing(
    tiny_model: Path,
    tiny_adapters: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk, say."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[write] Unable to write 25350 bytes to file.")  # MLX's words

    monkeypatch.setattr(fuse, "save_model", full)
    with pytest.raises(StorageFull, match="out cannot be written, the disk is full"):
        fuse_adapter(
            tiny_model, read_adapter(tiny_adapters["a4"]), tmp_path / "out", progress=silent
        )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError):
        fuse_adapter(tiny_model, read_adapter(tiny_adapters["a4"]), tmp_path, progress=silent)


@pytest.mark.skipif(device_kind() != "cpu", reason="a CPU holds the result in float32")
def test_a_check_that_cannot_fit_says_how_to_do_without(
    tiny_model: Path,
    tiny_adapters: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base fits, the result would not."""

    class Small:
        kind, memory_free_bytes = "cpu", 2_000_000

    monkeypatch.setattr(fuse, "describe_device", Small)
    files = read_adapter(tiny_adapters["a4"])
    with pytest.raises(BaseError, match="--no-check, or --requantize"):
        fuse_adapter(tiny_model, files, tmp_path / "out", text=TEXT, progress=silent)
    fuse_adapter(tiny_model, files, tmp_path / "a", requantize=True, text=TEXT, progress=silent)
    fuse_adapter(tiny_model, files, tmp_path / "b", progress=silent)
