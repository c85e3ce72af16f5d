"""Going on: from a checkpoint, from a parent, beside other work, always to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import pytest

from adapters.base.load import Base, load_base
from adapters.errors import AdapterFileError
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.training.checkpoint import read_checkpoint, write_checkpoint
from adapters.training.shape_growth import grow
from adapters.training.trainer import StepReport
from tests.training_rig import (
    SETTINGS,
    SHAPE,
    InlineDevice,
    ThreadDevice,
    bits,
    linears_of,
    make_examples,
    make_trainer,
)

DROPPED = dataclasses.replace(SHAPE, dropout=0.2)


def trained(base: Base, **changes: Any) -> AdapterFiles:
    """The adapter of a whole stage."""
    trainer = make_trainer(base, **changes)
    for _ in trainer.steps():
        pass
    files = trainer.adapter()
    trainer.close()
    return files


def figures(report: StepReport) -> StepReport:
    """A report without its times."""
    return dataclasses.replace(report, seconds=0.0, longest_piece_s=0.0)


def test_a_resumed_stage_is_bit_equal_to_an_undisturbed_one(base: Base, tmp_path: Path) -> None:
    """Six steps, or three, a file, another tree and three: with dropout and a schedule."""
    settings = dataclasses.replace(SETTINGS, warmup_steps=2, schedule="cosine")
    whole = make_trainer(base, settings=settings, shape=DROPPED)
    expected = [figures(report) for report in whole.steps()]
    first = make_trainer(base, settings=settings, shape=DROPPED)
    seen = []
    for report in first.steps():
        seen.append(figures(report))
        if report.step == 3:
            break
    file = tmp_path / "step-3.safetensors"
    write_checkpoint(file, first.checkpoint())
    first.close()
    mx.random.seed(99)
    second = make_trainer(base, settings=settings, shape=DROPPED, resume=read_checkpoint(file))
    assert second.step == 3
    seen += [figures(report) for report in second.steps()]
    assert seen == expected
    assert bits(second.adapter()) == bits(whole.adapter())
    ends = [each.checkpoint() for each in (second, whole)]
    assert {name: a.data for name, a in ends[0].moments.items()} == {
        name: a.data for name, a in ends[1].moments.items()
    }


def test_what_runs_between_the_pieces_changes_no_bit(base: Base) -> None:
    """Serving draws random numbers and computes in between; training does not see it."""

    def serve(model: Any) -> None:
        mx.eval(model(mx.array([[1, 2, 3]])), mx.random.normal((5,)))

    alone = trained(base, shape=DROPPED)
    beside = trained(base, shape=DROPPED, device=InlineDevice(base.model, serve))
    assert bits(alone) == bits(beside)


def test_stage_two_from_a_file_is_bit_equal_to_stage_two_from_memory(
    base: Base, tmp_path: Path
) -> None:
    """A revision holds all that the next stage starts from."""
    first = trained(base)
    write_adapter(tmp_path / "revision", first)
    ends = []
    for parent in (first, read_adapter(tmp_path / "revision")):
        start = grow(parent, linears_of(base.model), SHAPE, seed=1, stage=2)
        ends.append(trained(base, start=start, stage=2, examples=make_examples(seed=5)))
    assert bits(ends[0]) == bits(ends[1])
    assert bits(ends[0]) != bits(first)


def test_at_step_zero_a_stage_equals_its_parent(base: Base) -> None:
    """Rule 2: nothing is initialised again; the loss is where the parent's ended."""
    parent = make_trainer(base)
    for _ in parent.steps():
        pass
    start = grow(parent.adapter(), linears_of(base.model), SHAPE, seed=1, stage=2)
    child = make_trainer(base, start=start, stage=2)
    assert child.validation_loss() == parent.validation_loss()
    assert bits(child.adapter()) == bits(parent.adapter())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"settings": dataclasses.replace(SETTINGS, seed=9)}, "another plan"),
        ({"settings": dataclasses.replace(SETTINGS, learning_rate=1.0)}, "other settings"),
        ({"shape": dataclasses.replace(SHAPE, rank=8)}, "other settings"),
        ({"stage": 2}, "another plan"),
    ],
)
def test_a_checkpoint_of_another_stage_is_refused(
    base: Base, changes: dict[str, Any], word: str
) -> None:
    """Resume takes up everything or is an error."""
    checkpoint = make_trainer(base).checkpoint()
    with pytest.raises(AdapterFileError, match=word):
        make_trainer(base, resume=checkpoint, **changes)


def test_a_device_on_its_own_thread_gives_the_same_bits(tiny_model: Path, base: Base) -> None:
    """No lazy array crosses: the trainer's thread touches nothing of MLX."""
    here = trained(base, shape=DROPPED)
    with ThreadDevice(lambda: load_base(tiny_model)) as device:
        there = trained(device.base, shape=DROPPED, device=device)
    assert bits(there) == bits(here)
