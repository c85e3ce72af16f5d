"""Adapter directories are read whole, written whole, and are mlx-lm's own."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import AdapterFileError
from adapters.formats import mlx_lm
from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import CONFIG, WEIGHTS, AdapterFiles, read_adapter, write_adapter
from adapters.formats.safetensors_file import write_tensors
from adapters.shape import LoraShape, Target
from tests.equality import assert_equal, solo_logprobs

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
ONE = {"F32": b"\0\0\x80\x3f", "F16": b"\0\x3c", "BF16": b"\x80\x3f"}
UP = "model.layers.0.mlp.up_proj"


def ones(*shape: int, dtype: str = "F32") -> HostArray:
    """A tensor of ones."""
    array = HostArray(dtype, shape, b"")
    return dataclasses.replace(array, data=ONE[dtype] * array.size)


def spoiled(directory: Path, tensors: dict[str, HostArray], **config: Any) -> str:
    """Why a directory of these tensors is refused."""
    directory.mkdir()
    write_tensors(directory / WEIGHTS, tensors)
    parameters = {"rank": 2, "scale": 2.0, "dropout": 0.0} | config
    settings = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (directory / CONFIG).write_text(json.dumps(settings))
    with pytest.raises(AdapterFileError) as caught:
        read_adapter(directory)
    return str(caught.value)


@st.composite
def adapters(draw: st.DrawFn) -> AdapterFiles:
    """Adapters of any type and rank on a few modules."""
    rank = draw(st.integers(1, 4))
    keys = draw(st.lists(st.sampled_from(["mlp.up_proj", "self_attn.q_proj"]), min_size=1))
    modules = {f"model.layers.{draw(st.integers(0, 3))}.{key}" for key in keys}
    tensors = {}
    for module in modules:
        dtype = draw(st.sampled_from(sorted(WIDTH)))
        rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        tensors[module] = (ones(rows, rank, dtype=dtype), ones(rank, columns, dtype=dtype))
    scale = draw(st.floats(-1e4, 1e4).filter(lambda each: abs(each) >= 2**-126))
    dropout = draw(st.floats(0, 0.99))
    written = draw(st.sampled_from([None, tuple(keys)]))
    return AdapterFiles(LoraShape(rank, scale, -1, written, dropout), tensors)


def as_plain(files: AdapterFiles) -> tuple[LoraShape, dict[str, Any]]:
    """What can be compared."""
    return files.shape, {
        module: [(part.dtype, part.shape, part.data) for part in pair]
        for module, pair in files.tensors.items()
    }


@given(files=adapters())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, files: Any) -> None:
    """Shape, names, types and every byte."""
    path = tmp_path_factory.mktemp("written") / "adapter"
    write_adapter(path, files)
    assert as_plain(read_adapter(path)) == as_plain(files)


def test_an_adapter_of_mlx_lm_is_read(tiny_adapters: dict[str, Path]) -> None:
    """A is (in, rank), B is (rank, out), by the path of the module in the model."""
    files = read_adapter(tiny_adapters["a4"])
    keys = ("self_attn.q_proj", "self_attn.v_proj")
    assert files.shape == LoraShape(4, 10.0, 2, keys, 0.0)
    assert files.scale == 10.0
    assert files.targets == (
        Target("model.layers.2.self_attn.q_proj", 4, 128, 128),
        Target("model.layers.2.self_attn.v_proj", 4, 128, 64),
        Target("model.layers.3.self_attn.q_proj", 4, 128, 128),
        Target("model.layers.3.self_attn.v_proj", 4, 128, 64),
    )
    assert files.nbytes == 4 * 4 * (128 + 128 + 128 + 64) * 2


@pytest.mark.parametrize("name", ["a4", "b8", "c16", "d8"])
def test_a_written_adapter_is_the_same_adapter_to_mlx_lm(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """``mlx_lm.load(adapter_path=…)`` takes the directory and computes the same."""
    write_adapter(tmp_path / name, read_adapter(tiny_adapters[name]))
    tokens = list(range(3, 40))
    assert_equal(
        solo_logprobs(tiny_model, tiny_adapters[name], tokens),
        solo_logprobs(tiny_model, tmp_path / name, tokens),
    )


def test_a_file_is_read_on_a_thread_that_never_saw_mlx(
    tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader thread makes no MLX array: those belong to the device's thread."""

    def touched(*_: object, **__: object) -> None:
        raise RuntimeError("MLX was used")

    for each in ("load", "array", "zeros", "eval"):
        monkeypatch.setattr(mx, each, touched)
    found: list[AdapterFiles] = []
    thread = threading.Thread(target=lambda: found.append(read_adapter(tiny_adapters["b8"])))
    thread.start()
    thread.join()
    assert found[0].shape.rank == 8


def test_zero_layers_mean_all_as_they_do_to_mlx_lm(tmp_path: Path) -> None:
    """One spelling inside: -1."""
    files = AdapterFiles(LoraShape(2, 2.0, 0), {UP: (ones(4, 2), ones(2, 4))})
    write_adapter(tmp_path / "all", files)
    assert read_adapter(tmp_path / "all").shape.num_layers == -1


def test_fields_of_the_training_run_in_the_configuration_mean_nothing(tmp_path: Path) -> None:
    """mlx_lm.lora writes its whole command line there."""
    write_adapter(
        tmp_path / "a", AdapterFiles(LoraShape(2, 2.0, 1), {UP: (ones(4, 2), ones(2, 4))})
    )
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    config |= {"iters": 100, "model": "elsewhere", "lr_schedule": None}
    config["lora_parameters"] |= {"alpha": 16}
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
    assert read_adapter(tmp_path / "a").shape == LoraShape(2, 2.0, 1)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "holds no tensor"),
        ({f"{UP}.lora_a": ones(4, 2)}, f"{UP} has no lora_b"),
        ({f"{UP}.lora_b": ones(2, 4)}, f"{UP} has no lora_a"),
        (
            {f"{UP}.lora_a": ones(2, 4), f"{UP}.lora_b": ones(4, 2)},
            "has rank 4, the shape says 2",
        ),
        ({f"{UP}.lora_a": ones(2, 4), f"{UP}.lora_b": ones(6, 2)}, "PEFT files are transposed"),
        (
            {f"{UP}.lora_a": ones(4, 2), f"{UP}.lora_b": ones(2, 4), f"{UP}.m": ones(4, 1)},
            "Full and DoRA fine-tunes are not served",
        ),
        ({"model.layers.0.mlp.up_proj.weight": ones(4, 4)}, "Full and DoRA"),
        (
            {"model.embed_tokens.lora_a": ones(9, 2), "model.embed_tokens.lora_b": ones(2, 4)},
            "is an embedding",
        ),
        ({"model.layers.0.mlp.switch_mlp.up_proj.lora_a": ones(8, 2, 4)}, "experts of a mixture"),
        ({"lm_head.lora_a": ones(4, 2), "lm_head.lora_b": ones(2, 9)}, "not among the shape's"),
    ],
)
def test_tensors_that_cannot_be_served_are_refused_with_the_reason(
    tmp_path: Path, tensors: dict[str, HostArray], reason: str
) -> None:
    """Never taken for a part of what they are."""
    message = spoiled(tmp_path / "adapter", tensors)
    assert reason in message
    assert str(tmp_path / "adapter" / WEIGHTS) in message


def test_one_misfit_is_shown_and_the_rest_are_counted(tmp_path: Path) -> None:
    """A wrong configuration contradicts every module."""
    tensors = {}
    for block in range(3):
        tensors[f"model.layers.{block}.q.lora_a"] = ones(4, 3)
        tensors[f"model.layers.{block}.q.lora_b"] = ones(3, 4)
    message = spoiled(tmp_path / "adapter", tensors)
    assert "model.layers.0.q has rank 3, the shape says 2 (2 more)" in message


def test_a_written_adapter_is_never_changed(tmp_path: Path) -> None:
    """Not even by the same one."""
    files = AdapterFiles(LoraShape(2, 2.0, 1), {UP: (ones(4, 2), ones(2, 4))})
    write_adapter(tmp_path / "a", files)
    with pytest.raises(FileExistsError, match="never changed"):
        write_adapter(tmp_path / "a", files)


def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the directory nor a part of it."""

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlx_lm, "sync", full)
    files = AdapterFiles(LoraShape(2, 2.0, 1), {UP: (ones(4, 2), ones(2, 4))})
    with pytest.raises(OSError, match="No space left"):
        write_adapter(tmp_path / "a", files)
    assert list(tmp_path.iterdir()) == []


def test_everything_is_on_the_disk_before_the_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files and their directory are synced, then it is renamed, then the parent is synced."""
    done: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        done.append("after" if (tmp_path / "a").exists() else "before")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    files = AdapterFiles(LoraShape(2, 2.0, 1), {UP: (ones(4, 2), ones(2, 4))})
    write_adapter(tmp_path / "a", files)
    assert done == ["before", "before", "before", "after"]


@given(place=st.integers(0, 400), bits=st.integers(1, 255))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_refused_or_read_and_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, bits: int
) -> None:
    """Where it lies in a tensor it is seen: NaN is refused, and another number is another one."""
    path = tmp_path_factory.mktemp("flipped") / "adapter"
    files = AdapterFiles(LoraShape(2, 2.0, 1), {UP: (ones(4, 2), ones(2, 4))})
    write_adapter(path, files)
    raw = bytearray((path / WEIGHTS).read_bytes())
    place %= len(raw)
    raw[place] ^= bits
    (path / WEIGHTS).write_bytes(raw)
    try:
        found = read_adapter(path)
    except AdapterFileError:
        return
    if place >= len(raw) - files.nbytes:
        assert as_plain(found) != as_plain(files)
