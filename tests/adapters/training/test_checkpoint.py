"""A checkpoint is written whole or not at all, and read back as it was or refused."""

from __future__ import annotations

import dataclasses
import errno
import re
from pathlib import Path
from typing import Any

import adapters  # noqa: F401

# isort: split
import numpy as np
import pytest

from adapters.errors import AdapterFileError, StorageFull, StoreError
from adapters.formats.arrays import HostArray
from adapters.formats.safetensors_file import write_tensors
from adapters.lineage import TrainSettings
from adapters.shape import LoraShape
from adapters.training.checkpoint import (
    Checkpoint,
    read_checkpoint,
    settings_digest,
    write_checkpoint,
)

SHAPES = {"x.lora_a": (2, 1), "x.lora_b": (1, 3)}
CALL: dict[str, Any] = {"plan": "p" * 64, "settings": "s" * 64, "steps": 10, "shapes": SHAPES}


def array(*shape: int, fill: float = 1.0) -> HostArray:
    """A float32 array of one value."""
    return HostArray("F32", shape, np.full(shape, fill, "<f4").tobytes())


def make(**changes: Any) -> Checkpoint:
    """The checkpoint of a stage with one module."""
    whole = Checkpoint(
        step=7,
        plan="p" * 64,
        settings="s" * 64,
        parameters={name: array(*shape) for name, shape in SHAPES.items()},
        moments={f"{m}.{name}": array(*shape) for name, shape in SHAPES.items() for m in "mv"},
    )
    return dataclasses.replace(whole, **changes)


def content(checkpoint: Checkpoint) -> Any:
    """Everything that a checkpoint holds, comparable."""
    return (
        checkpoint.step,
        checkpoint.plan,
        checkpoint.settings,
        {name: (a.dtype, a.shape, a.data) for name, a in checkpoint.parameters.items()},
        {name: (a.dtype, a.shape, a.data) for name, a in checkpoint.moments.items()},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """To the bit, and nothing else lies beside it; a newer one takes its place."""
    file = tmp_path / "step-7.safetensors"
    write_checkpoint(file, make(step=6))
    write_checkpoint(file, make())
    assert content(read_checkpoint(file)) == content(make())
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_a_checkpoint_that_fits_has_no_misfits() -> None:
    """The first and the last step included."""
    assert make().misfits(**CALL) == []
    assert make(step=0).misfits(**CALL) == []
    assert make(step=10).misfits(**CALL) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"plan": "q"}, "another plan"),
        ({"settings": "q"}, "other settings"),
        ({"step": 11}, "step 11 of 10"),
        ({"parameters": {"x.lora_a": array(2, 1)}}, "parameters are not those"),
        ({"moments": {}}, "moments are not those"),
        ({"parameters": {"x.lora_a": array(1, 2), "x.lora_b": array(1, 3)}}, r"F32 \(1, 2\), not"),
        (
            {"parameters": {"x.lora_a": array(2, 1, fill=np.nan), "x.lora_b": array(1, 3)}},
            "x.lora_a is not finite",
        ),
    ],
)
def test_a_checkpoint_of_another_stage_is_told(changes: dict[str, Any], word: str) -> None:
    """Resuming is all or an error."""
    (found,) = make(**changes).misfits(**CALL)
    assert re.search(word, found), found


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    """Whatever a crash left, it is not half believed."""
    file = tmp_path / "a.safetensors"
    write_checkpoint(file, make())
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(AdapterFileError):
        read_checkpoint(file)


def test_a_bit_that_flipped_is_found(tmp_path: Path) -> None:
    """In the arrays or in the step: training would go on from another state and never tell."""
    file = tmp_path / "a.safetensors"
    write_checkpoint(file, make())
    whole = file.read_bytes()
    step = whole.index(b'"step":"7"') + len('"step":"')
    for place in (len(whole) - 2, step):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(AdapterFileError, match="is damaged"):
            read_checkpoint(file)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    """Another safetensors file, another version, a foreign tensor, a missing file."""
    file = tmp_path / "a.safetensors"
    write_tensors(file, {"p.x": array(1)})
    with pytest.raises(AdapterFileError, match="no checkpoint of this version"):
        read_checkpoint(file)
    header = {"checkpoint": "chainlora checkpoint 1", "step": "-1"}
    write_tensors(file, {"p.x": array(1)}, metadata=header)
    with pytest.raises(AdapterFileError, match="no checkpoint of this version"):
        read_checkpoint(file)
    write_tensors(file, {"q.x": array(1)}, metadata=header | {"step": "1"})
    with pytest.raises(AdapterFileError, match=r"'q\.x' is no part"):
        read_checkpoint(file)
    with pytest.raises(AdapterFileError, match="cannot be read"):
        read_checkpoint(tmp_path / "b.safetensors")


@pytest.mark.parametrize("step", ["write_tensors", "sync"])
def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The error is typed and says what to do; no part of the new file stays."""
    file = tmp_path / "a.safetensors"
    write_checkpoint(file, make(step=3))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"adapters.training.checkpoint.{step}", full)
    with pytest.raises(StorageFull, match="free some space"):
        write_checkpoint(file, make())
    assert read_checkpoint(file).step == 3
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_a_checkpoint_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    """A directory that is gone is no full disk."""
    with pytest.raises(StoreError, match="cannot be written") as refused:
        write_checkpoint(tmp_path / "gone" / "a.safetensors", make())
    assert type(refused.value) is StoreError


def test_the_settings_digest_is_of_all_that_decides() -> None:
    """Settings, shape and the stage's number; the same ones give the same digest."""
    settings, shape = TrainSettings(iters=3), LoraShape(2, 1.0, 2, ("q",))
    one = settings_digest(settings, shape, 1)
    assert one == settings_digest(TrainSettings(iters=3), shape, 1)
    others = {
        settings_digest(dataclasses.replace(settings, learning_rate=1.0), shape, 1),
        settings_digest(settings, dataclasses.replace(shape, dropout=0.1), 1),
        settings_digest(settings, shape, 2),
    }
    assert len(others | {one}) == 4
