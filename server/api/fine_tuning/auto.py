"""What ``auto`` means: hyperparameters by the number of rows, and as settings of a stage.

An epoch of a small set is a few short steps, so that it takes several to learn it; a large set is
read once, in larger steps. The learning rate follows the square root of the batch, since the
noise of a step's gradient does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapters.lineage import TrainSettings
from server.api.fine_tuning.schema import Hyperparameters

BASE_RATE = TrainSettings().learning_rate
"""The learning rate of ``learning_rate_multiplier`` 1."""

_USUAL_EPOCHS = 3
_LEAST_SEEN, _MOST_SEEN = 100, 25_000
"""Rows that a job sees, counting each epoch."""
_MOST_EPOCHS = 25
_USUAL_BATCH, _MOST_BATCH = 8, 64
_STEPS_OF_LARGE = 500
_MOST_MULTIPLIER = 2.0
_EVALUATIONS = 10


@dataclass(frozen=True, slots=True)
class Chosen:
    """Hyperparameters with a number each."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


def chosen(asked: Hyperparameters, rows: int) -> Chosen:
    """``asked``, with what is left to us chosen for a data set of ``rows`` rows."""
    epochs = _epochs(rows) if asked.n_epochs is None else asked.n_epochs
    batch = _batch(rows) if asked.batch_size is None else asked.batch_size
    multiplier = asked.learning_rate_multiplier
    if multiplier is None:
        grown = math.sqrt(max(batch, _USUAL_BATCH) / _USUAL_BATCH)
        multiplier = round(min(grown, _MOST_MULTIPLIER), 2)
    return Chosen(epochs, batch, multiplier)


def settings_of(
    chosen: Chosen, *, rows: int, seed: int, max_seq_length: int, validates: bool
) -> TrainSettings:
    """A stage's settings; with validation data about ten evaluations beside the first and last."""
    steps = chosen.n_epochs * math.ceil(rows / chosen.batch_size)
    return TrainSettings(
        epochs=chosen.n_epochs,
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate_multiplier * BASE_RATE,
        max_seq_length=max_seq_length,
        eval_every=max(1, steps // _EVALUATIONS) if validates else None,
        seed=seed,
    )


def told(settings: TrainSettings) -> dict[str, int | float | None]:
    """The hyperparameters of a stage; ``n_epochs`` is None where its length was given in steps."""
    return {
        "n_epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate_multiplier": float(f"{settings.learning_rate / BASE_RATE:.12g}"),
    }


def _epochs(rows: int) -> int:
    if rows * _USUAL_EPOCHS < _LEAST_SEEN:
        return min(math.ceil(_LEAST_SEEN / rows), _MOST_EPOCHS)
    return min(_USUAL_EPOCHS, max(1, _MOST_SEEN // rows))


def _batch(rows: int) -> int:
    small = min(max(rows // _USUAL_BATCH, 1), _USUAL_BATCH)
    return max(small, min(rows // _STEPS_OF_LARGE, _MOST_BATCH))
