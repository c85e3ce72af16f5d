"""Which rows each optimizer step of a stage learns from, and in which micro-batches.

A plan is a function of the rows' lengths, the settings and the stage's number: nothing that is
measured changes it, since sums in another order are other bits.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from adapters.errors import DataError
from adapters.lineage import TrainSettings

_DIGESTED = 2000


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised row.

    ``mask[i]`` says that ``tokens[i]`` is to be learned, as what follows ``tokens[:i]``; there is
    one flag for each token, and the first is False. ``line`` is the row's line in its data set,
    from 1.
    """

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]
    line: int


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that are computed together, as indices into the stage's examples; shorter ones first."""

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Every optimizer step of a stage, in order: ``steps[i]`` are the micro-batches of step i.

    ``train`` are indices into the stage's examples. ``validation`` are too, where a share of them
    is held out; where validation data are given, it indexes those. ``len(steps)`` is how many steps
    the stage has; they are computed when asked for, since there may be millions.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    steps: Sequence[tuple[MicroBatch, ...]]

    def digest(self) -> str:
        """SHA-256 of it: equal where the same rows meet in the same order.

        Of millions of steps the first and the last thousands stand for all: they are computed in
        the same way, and nothing can stop a stage while it counts them.
        """
        digest = hashlib.sha256(b"chainlora plan 1\n")
        _add(digest, self.train)
        _add(digest, self.validation)
        indices: Sequence[int] = range(len(self.steps))
        if len(indices) > 2 * _DIGESTED:
            _add(digest, [len(indices)])
            indices = (*indices[:_DIGESTED], *indices[-_DIGESTED:])
        for step in map(self.steps.__getitem__, indices):
            _add(digest, [len(batch.rows) for batch in step])
            _add(digest, [row for batch in step for row in batch.rows])
        return digest.hexdigest()


def tokens_of(plan: Plan, lengths: Sequence[int], batch_size: int, steps: int) -> int:
    """Tokens of the rows of the first ``steps`` steps; ``lengths`` as the plan was made with."""
    in_epoch = -(-len(plan.train) // batch_size)
    epochs = steps // in_epoch
    begun = plan.steps[epochs * in_epoch : steps]
    return epochs * sum(lengths[row] for row in plan.train) + sum(
        lengths[row] for step in begun for batch in step for row in batch.rows
    )


def make_plan(
    lengths: Sequence[int],
    settings: TrainSettings,
    *,
    stage_number: int,
    validation_rows: int | None = None,
) -> Plan:
    """The plan for rows of ``lengths`` tokens.

    Every row that is not held out is in exactly one step of each epoch; the last step of an epoch
    takes what is left, also where that is fewer rows than ``batch_size``. With ``iters`` the steps
    go on into further epochs, and end at that number within one. Which rows are held out depends
    on the seed and their number alone, so that the next stage on the same data holds out the same.

    ``validation_rows`` counts the rows of the validation data; None where there are none, and then
    ``validation_split`` counts. Raises DataError where there are no rows.
    """
    if (settings.iters is None) == (settings.epochs is None):
        raise ValueError("one of iters and epochs is set")
    if not lengths:
        raise DataError("The data set has no rows.")
    if validation_rows is None:
        train, validation = _split(len(lengths), settings)
    else:
        train, validation = tuple(range(len(lengths))), tuple(range(validation_rows))
    return Plan(train, validation, _Steps(tuple(lengths), train, settings, stage_number))


def micro_batches(
    rows: Iterable[int], lengths: Sequence[int], most_tokens: int
) -> tuple[MicroBatch, ...]:
    """``rows`` by length, together up to ``most_tokens`` with padding, at least one row each."""
    batches: list[MicroBatch] = []
    together: list[int] = []
    for row in sorted(rows, key=lengths.__getitem__):
        if together and (len(together) + 1) * lengths[row] > most_tokens:
            batches.append(MicroBatch(tuple(together)))
            together = []
        together.append(row)
    if together:
        batches.append(MicroBatch(tuple(together)))
    return tuple(batches)


@dataclass(frozen=True)
class _Steps(Sequence[tuple[MicroBatch, ...]]):
    """The steps of a stage, computed epoch by epoch when they are asked for."""

    lengths: tuple[int, ...]
    train: tuple[int, ...]
    settings: TrainSettings
    stage_number: int
    # The order of the epoch that was asked for last.
    _last: list[tuple[int, list[int]]] = field(default_factory=list, compare=False, repr=False)

    @property
    def _in_epoch(self) -> int:
        return -(-len(self.train) // self.settings.batch_size)

    def __len__(self) -> int:
        if self.settings.iters is not None:
            return self.settings.iters
        return (self.settings.epochs or 0) * self._in_epoch

    @overload
    def __getitem__(self, index: int) -> tuple[MicroBatch, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[MicroBatch, ...], ...]: ...

    def __getitem__(
        self, index: int | slice
    ) -> tuple[MicroBatch, ...] | tuple[tuple[MicroBatch, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        epoch, step = divmod(range(len(self))[index], self._in_epoch)
        size = self.settings.batch_size
        rows = self._order(epoch)[step * size : (step + 1) * size]
        return micro_batches(rows, self.lengths, self.settings.micro_batch_tokens)

    def __iter__(self) -> Iterator[tuple[MicroBatch, ...]]:
        return (self[i] for i in range(len(self)))

    def _order(self, epoch: int) -> list[int]:
        for known, order in self._last:
            if known == epoch:
                return order
        order = _shuffled(self.train, f"epoch {self.settings.seed} {self.stage_number} {epoch}")
        self._last[:] = [(epoch, order)]
        return order


def _split(count: int, settings: TrainSettings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(trained, held out): a share of the rows, at least one and never all."""
    rows = range(count)
    if settings.validation_split <= 0 or count == 1:
        return tuple(rows), ()
    held = min(max(1, round(count * settings.validation_split)), count - 1)
    order = _shuffled(rows, f"split {settings.seed}")
    return tuple(sorted(order[held:])), tuple(sorted(order[:held]))


def _shuffled(rows: Sequence[int], seed: str) -> list[int]:
    """``rows`` in an order that is a function of ``seed`` and their number.

    By keys from ``random()``, the one method whose sequence Python promises to keep.
    """
    draw = random.Random(f"chainlora {seed}").random
    keys = [draw() for _ in rows]
    return [rows[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]


def _add(digest: hashlib._Hash, numbers: Sequence[int]) -> None:
    digest.update((",".join(map(str, numbers)) + "\n").encode())
