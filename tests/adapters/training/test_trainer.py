"""A stage learns in short pieces, stops between them, and goes on to the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from adapters.base.load import Base
from adapters.errors import AdapterMismatch, DataError, DeviceGone, NonFinite, StageError
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lineage import TrainSettings
from adapters.shape import LoraShape
from adapters.training.batches import Example, MicroBatch, Plan
from adapters.training.schedule import learning_rate
from adapters.training.shape_growth import initial_adapter
from adapters.training.trainer import Interrupted, Trainer
from tests.memory import active_memory
from tests.training_rig import (
    SETTINGS,
    SHAPE,
    InlineDevice,
    bits,
    linears_of,
    make_examples,
    make_trainer,
)

DROPPED = dataclasses.replace(SHAPE, dropout=0.2)


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
    whole = make_trainer(base)
    for _ in whole.steps():
        pass
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
    assert bits(resumed.adapter()) == bits(whole.adapter())


def test_a_stage_may_be_stopped_before_its_first_piece(base: Base) -> None:
    """Nothing is tried out on a large model first, and nothing stays on the device."""
    before = active_memory()
    device = InlineDevice(base.model)
    with pytest.raises(Interrupted):
        make_trainer(base, device=device, should_stop=lambda: True)
    assert device.pieces == 2  # built and freed
    assert active_memory() == before


def test_a_trainer_that_cannot_be_made_leaves_no_memory_behind(base: Base) -> None:
    """Whatever it had put on the device is freed."""
    before = active_memory()

    def fail(_model: Any) -> None:
        if device.pieces == 4:
            raise StageError("not today")

    device = InlineDevice(base.model, fail)
    with pytest.raises(StageError, match="not today"):
        make_trainer(base, device=device)
    assert active_memory() == before


def test_divergence_stops_the_stage_and_keeps_the_last_good_step(base: Base) -> None:
    """A rate that no parameter survives: the error names the step and the cure."""
    settings = dataclasses.replace(SETTINGS, learning_rate=3e38, weight_decay=0.0, warmup_steps=0)
    trainer = make_trainer(base, settings=settings)
    with pytest.raises(NonFinite, match=r"step [1-6].*learning_rate"):
        list(trainer.steps())
    assert all(a.is_finite() and b.is_finite() for a, b in trainer.adapter().tensors.values())


def test_closing_gives_the_memory_back(base: Base) -> None:
    """All of it; twice is once, and a device that is gone took it along."""
    before = active_memory()
    trainer = make_trainer(base)
    next(trainer.steps())
    assert active_memory() > before
    trainer.close()
    trainer.close()
    assert active_memory() == before
    other = make_trainer(base)

    def gone(_model: Any) -> None:
        raise DeviceGone

    device: Any = other._device
    device._between = gone
    other.close()


def test_an_interrupted_step_leaves_no_memory_behind(base: Base) -> None:
    """Activations of a step that was given up are freed with the trainer at the latest."""
    before = active_memory()
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 40

    trainer = make_trainer(base, should_stop=stop)
    with pytest.raises(Interrupted):
        list(trainer.steps())
    trainer.close()
    assert active_memory() == before


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
