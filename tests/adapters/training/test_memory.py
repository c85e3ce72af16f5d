"""What a stage is said to need is what it takes, to a factor of two."""

from __future__ import annotations

import dataclasses

import adapters  # noqa: F401

# isort: split
import mlx.core as mx
import pytest

from adapters.base.load import Base
from adapters.lineage import TrainSettings
from adapters.shape import LoraShape
from adapters.training.batches import Example
from adapters.training.memory import estimate, head_rows
from tests.memory import active_memory
from tests.training_rig import VOCABULARY, linears_of, make_trainer


@pytest.mark.parametrize(
    ("shape", "rows", "length"),
    [
        (LoraShape(8, 2.0, 2), 4, 64),
        (LoraShape(64, 2.0, -1), 2, 16),
        (LoraShape(8, 2.0, 1), 2, 300),
        (LoraShape(4, 2.0, 4), 12, 48),
    ],
)
def test_the_estimate_is_near_the_peak(
    base: Base, shape: LoraShape, rows: int, length: int
) -> None:
    """Whether parameters, activations, attention or the head take most."""
    examples = [
        Example(
            tuple((line * 7 + i) % VOCABULARY for i in range(length)),
            (False,) + (True,) * (length - 1),
            line + 1,
        )
        for line in range(rows)
    ]
    settings = TrainSettings(iters=1, batch_size=rows, micro_batch_tokens=rows * length)
    linears = linears_of(base.model)
    before = active_memory()
    mx.reset_peak_memory()
    trainer = make_trainer(base, examples=examples, settings=settings, shape=shape)
    assert len(list(trainer.steps())) == 1
    peak = mx.get_peak_memory() - before
    trainer.close()
    said = estimate(base.config, linears, shape, settings, longest_row=length)
    assert peak / 2 <= said <= 2 * peak


def test_more_of_anything_never_takes_less() -> None:
    """Rank, blocks, tokens and rows."""
    from adapters.shape import Target

    linears = [Target(f"layers.{i}.q", 0, 64, 64) for i in range(6)]
    config = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 1000}
    shape, settings = LoraShape(4, 1.0, 2), TrainSettings(iters=1, micro_batch_tokens=256)
    small = estimate(config, linears, shape, settings, longest_row=32)
    for larger in (
        estimate(config, linears, dataclasses.replace(shape, rank=512), settings, longest_row=32),
        estimate(
            config, linears, dataclasses.replace(shape, num_layers=-1), settings, longest_row=32
        ),
        estimate(config, linears, shape, settings, longest_row=256),
        estimate(
            config,
            linears,
            shape,
            dataclasses.replace(settings, micro_batch_tokens=1024),
            longest_row=32,
        ),
    ):
        assert larger >= small
    assert estimate({}, linears, shape, settings, longest_row=32) > 0
    nested = {"text_config": config}
    assert estimate(nested, linears, shape, settings, longest_row=32) == small


def test_a_chunk_of_the_head_is_bounded_by_its_logits() -> None:
    """About two million, and never too few rows for a product nor more than a thousand."""
    assert [head_rows(words) for words in (100, 49_152, 10_000_000)] == [1024, 42, 16]
