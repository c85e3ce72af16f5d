"""A stage learns in short pieces, stops between them, and goes on to the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from adapters.base.load import Base
from adapters.errors import AdapterFileError, AdapterMismatch, DataError, DeviceGone, NonFinite
from adapters.formats.mlx_lm import AdapterFiles, read_adapter, write_adapter
from adapters.lineage import TrainSettings
from adapters.shape import LoraShape
from adapters.training.batches import Example, MicroBatch, Plan
from adapters.training.checkpoint import read_checkpoint, write_checkpoint
from adapters.training.schedule import learning_rate
from adapters.training.shape_growth import grow, initial_adapter
from adapters.training.trainer import Interrupted, StepReport, Trainer
from tests.training_rig import (
    SETTINGS,
    SHAPE,
    InlineDevice,
    linears_of,
    make_examples,
    make_trainer,
)

DROPPED = dataclasses.replace(SHAPE, dropout=0.2)


def bits(files: AdapterFiles) -> dict[str, tuple[bytes, bytes]]:
    """Every byte of an adapter."""
    return {path: (a.data, b.data) for path, (a, b) in files.tensors.items()}


def trained(base: Base, **changes: Any) -> AdapterFiles:
    """The adapter of a whole stage."""
    trainer = make_trainer(base, **changes)
    for _ in trainer.steps():
        pass
    files = trainer.adapter()
    trainer.close()
    return files


def figures(report: StepReport) -> StepReport:
    """A report without its time."""
    return dataclasses.replace(report, seconds=0.0)


def test_a_stage_learns(base: Base) -> None:
    """The loss of its own rows falls; the reports say what was done."""
    settings = dataclasses.replace(SETTINGS, iters=16)
    trainer = make_trainer(base, settings=settings)
    before = trainer.validation_loss()
    reports = list(trainer.steps())
    assert trainer.validation_loss() < before - 1
    assert [report.step for report in reports] == list(range(1, 17))
    assert {report.steps for report in reports} == {16}
    assert [report.learning_rate for report in reports] == [
        learning_rate(step, 16, settings) for step in range(16)
    ]
    assert all(report.grad_norm > 0 and report.seconds > 0 for report in reports)
    examples = make_examples()
    assert sum(report.tokens for report in reports[:3]) == sum(len(e.tokens) for e in examples)
    assert sum(report.supervised for report in reports[:3]) == sum(sum(e.mask) for e in examples)
    assert (trainer.form, trainer.warnings) == ("sliced", ())


def test_the_first_loss_is_that_of_the_base(base: Base) -> None:
    """A new adapter changes nothing: the base's own loss, in training and in evaluation."""
    examples = make_examples(4)
    plan = Plan((0, 1, 2, 3), (), ((MicroBatch((0, 1)), MicroBatch((2, 3))),))
    settings = dataclasses.replace(SETTINGS, iters=1)
    trainer = make_trainer(base, examples=examples, settings=settings)
    vars(trainer)["_plan"] = plan
    losses = []
    model: Any = base.model
    for row in examples:
        logits = model(mx.array([row.tokens[:-1]]))[0]
        scores = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        losses += [-scores[i - 1, row.tokens[i]] for i, wanted in enumerate(row.mask) if wanted]
    (report,) = trainer.steps()
    assert report.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_token_weighs_the_same_in_any_micro_batch(base: Base) -> None:
    """How a step's rows are put together changes rounding alone, padding and all."""
    results = []
    for most in (16, 1000):
        settings = dataclasses.replace(SETTINGS, iters=2, micro_batch_tokens=most)
        trainer = make_trainer(base, settings=settings)
        reports = list(trainer.steps())
        results.append((reports, trainer.adapter(), trainer.validation_loss()))
    (one, mine, held), (other, theirs, held_too) = results
    for a, b in zip(one, other, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    assert held == pytest.approx(held_too, rel=1e-5)
    for path in mine.tensors:
        for left, right in zip(mine.tensors[path], theirs.tensors[path], strict=True):
            apart = np.frombuffer(left.data, "<f4") - np.frombuffer(right.data, "<f4")
            assert np.abs(apart).max() < 1e-3


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


def test_the_stage_number_and_the_seed_draw_other_masks(base: Base) -> None:
    """And the same ones draw the same."""
    start = initial_adapter(linears_of(base.model), DROPPED, seed=0, stage=1)
    plan = Plan((0, 1, 2, 3), (), ((MicroBatch((0, 1, 2, 3)),),))

    def loss(stage: int, seed: int) -> float:
        settings = dataclasses.replace(SETTINGS, seed=seed, iters=1)
        # A B of zero would hide the masks.
        grown = dataclasses.replace(
            start, tensors={p: (a, _ones(b)) for p, (a, b) in start.tensors.items()}
        )
        trainer = make_trainer(base, start=grown, stage=stage, settings=settings)
        vars(trainer)["_plan"] = plan
        return next(trainer.steps()).loss

    assert loss(1, 0) == loss(1, 0)
    assert len({loss(1, 0), loss(2, 0), loss(1, 1)}) == 3


def _ones(array: Any) -> Any:
    return dataclasses.replace(array, data=np.full(array.shape, 0.1, "<f4").tobytes())


def test_a_stage_stops_between_two_pieces(base: Base) -> None:
    """Within one piece, with the state of the last whole step; going on gives the same bits."""
    expected = trained(base)
    stop = False
    trainer = make_trainer(base, should_stop=lambda: stop)
    steps = trainer.steps()
    next(steps)
    after_one = bits(trainer.adapter())
    device: Any = trainer._device
    begun = device.pieces

    def stop_soon(_model: Any) -> None:
        nonlocal stop
        stop = device.pieces >= begun + 5

    device._between = stop_soon
    with pytest.raises(Interrupted):
        next(steps)
    assert device.pieces == begun + 5
    assert trainer.step == 1
    assert bits(trainer.adapter()) == after_one
    with pytest.raises(Interrupted):
        trainer.validation_loss()
    resumed = make_trainer(base, resume=trainer.checkpoint())
    for _ in resumed.steps():
        pass
    assert bits(resumed.adapter()) == bits(expected)


def test_a_stage_may_be_stopped_before_it_begins(base: Base) -> None:
    """Nothing is put on the device for it."""
    device = InlineDevice(base.model)
    with pytest.raises(Interrupted):
        make_trainer(base, device=device, should_stop=lambda: True)
    assert device.pieces == 0


def test_divergence_stops_the_stage_and_keeps_the_last_good_step(base: Base) -> None:
    """A rate that no parameter survives: the error names the step and the cure."""
    settings = dataclasses.replace(SETTINGS, learning_rate=3e38, weight_decay=0.0, warmup_steps=0)
    trainer = make_trainer(base, settings=settings)
    with pytest.raises(NonFinite, match=r"step [1-6].*learning_rate"):
        list(trainer.steps())
    assert all(a.is_finite() and b.is_finite() for a, b in trainer.adapter().tensors.values())


def test_closing_gives_the_memory_back(base: Base) -> None:
    """All of it; twice is once, and a device that is gone took it along."""
    before = mx.get_active_memory()
    trainer = make_trainer(base)
    next(trainer.steps())
    assert mx.get_active_memory() > before
    trainer.close()
    trainer.close()
    assert mx.get_active_memory() == before
    other = make_trainer(base)

    def gone(_model: Any) -> None:
        raise DeviceGone

    device: Any = other._device
    device._between = gone
    other.close()


def test_an_interrupted_step_leaves_no_memory_behind(base: Base) -> None:
    """Activations of a step that was given up are freed with the trainer at the latest."""
    before = mx.get_active_memory()
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 40

    trainer = make_trainer(base, should_stop=stop)
    with pytest.raises(Interrupted):
        list(trainer.steps())
    trainer.close()
    assert mx.get_active_memory() == before


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


def test_an_adapter_that_contradicts_its_shape_is_refused(base: Base) -> None:
    """Before anything is put on the device."""
    start = initial_adapter(linears_of(base.model), SHAPE, seed=0, stage=1)
    wrong = AdapterFiles(LoraShape(5, 2.0, 2), start.tensors)
    with pytest.raises(AdapterMismatch, match="rank 4, the shape says 5"):
        make_trainer(base, start=wrong)


def test_there_must_be_something_to_learn_and_to_measure(base: Base) -> None:
    """A step without a target is refused, never divided by zero; so is an empty measurement."""
    blank = [Example((5, 6, 7), (False, False, False), line) for line in range(1, 5)]
    trainer = make_trainer(base, examples=blank, settings=dataclasses.replace(SETTINGS, iters=1))
    with pytest.raises(DataError, match="step 1"):
        list(trainer.steps())
    with pytest.raises(DataError, match="no validation row"):
        trainer.validation_loss()
    assert not make_trainer(base, validation_examples=[]).has_validation


def test_every_piece_is_evaluated(base: Base) -> None:
    """No piece leaves work to the next: the device's time is spent where it is counted."""
    trainer = make_trainer(base)
    list(trainer.steps())
    state: Any = trainer._optimizer._adam.state
    for array in [*trainer._tree.parameters().values(), state["step"]]:
        # An evaluated array has no inputs left to keep alive.
        assert _is_evaluated(array)


def _is_evaluated(array: mx.array) -> bool:
    graph: Callable[..., Any] = mx.export_to_dot
    import io

    out = io.StringIO()
    graph(out, array)
    return "->" not in out.getvalue()


def test_the_default_settings_train(base: Base) -> None:
    """What a request leaves out is filled with values that work."""
    settings = TrainSettings(epochs=1)
    trainer = make_trainer(base, settings=settings)
    assert [report.step for report in trainer.steps()] == [1, 2]
    assert isinstance(trainer, Trainer)
