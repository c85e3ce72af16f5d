"""Whether a model may be trained in slices: found out once, on a small batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import mlx.core as mx

from adapters.base.block_list import MISUSE
from adapters.errors import StageError
from adapters.training.forms import Form, Piece, Sliced, Whole
from adapters.training.loss import Batch, Sums, number
from adapters.training.tree import Parameters, TrainingTree
from adapters.training.walk import Walk

_TOLERANCE, _TOLERANCE_16_BIT = 1e-3, 5e-2


class Trial:
    """Sliced held to the model's own forward on a small batch, dropout off; once for each tree.

    After its ``pieces``, ``form`` is Sliced where loss and gradients were the same, else Whole, and
    ``warning`` says why. It is done with a B that is not zero: where B is, so is the gradient of A
    in any form.
    """

    def __init__(self, tree: TrainingTree, probe: Batch) -> None:
        self._tree = tree
        self._probe = probe
        self._expected, self._found = Sums(), Sums()
        self._moved: Parameters = {}
        self._sliced: Sliced | None = None
        self.form: Form = Whole(tree)
        self.warning: str | None = None

    def pieces(self) -> Iterator[Piece]:
        """To be called in order."""
        yield self._start
        for piece in self.form.training(self._probe, self._expected):
            yield partial(self._hold, piece)
        if self._sliced is not None:
            for piece in self._sliced.training(self._probe, self._found):
                yield partial(self._try, piece)
                if self.warning:
                    break
        yield self._decide

    def _start(self) -> None:
        self._moved = _moved(self._tree)
        mx.eval(self._moved)
        try:
            self._sliced = Sliced(self._tree)
        except MISUSE as error:
            self._refuse(f"it cannot be taken block by block ({error})")

    def _hold(self, piece: Piece) -> None:
        try:
            self._moved_by(piece)
        except MISUSE as error:
            raise StageError(
                f"This base cannot be trained: its forward has no gradient ({error}). Train on a "
                "model of another architecture."
            ) from error

    def _moved_by(self, piece: Piece) -> None:
        with self._tree.using(self._moved):
            piece()

    def _try(self, piece: Piece) -> None:
        try:
            self._moved_by(piece)
        except MISUSE as error:
            self._refuse(f"it cannot be taken block by block ({error})")

    def _decide(self) -> None:
        if self._sliced is not None and self.warning is None:
            if _agree(self._expected, self._found, _tolerance(self._sliced.walk)):
                self.form = self._sliced
            else:
                self._refuse("taken block by block, its loss or gradients come out differently")
        self._expected.clear()
        self._found.clear()
        self._moved.clear()

    def _refuse(self, why: str) -> None:
        self.warning = f"This model is trained in one long piece a micro-batch: {why}."


def _moved(tree: TrainingTree) -> Parameters:
    return {
        name: array + 0.01 * mx.random.normal(array.shape, key=mx.random.key(index))
        for index, (name, array) in enumerate(tree.parameters().items())
    }


def _tolerance(walk: Walk) -> float:
    wide = walk.first(mx.zeros((1, 1), mx.int32)).dtype == mx.float32
    return _TOLERANCE if wide else _TOLERANCE_16_BIT


def _agree(expected: Sums, found: Sums, tolerance: float) -> bool:
    """Whether loss and every gradient are the same, measured by the largest gradient."""
    if (
        expected.loss is None
        or found.loss is None
        or expected.gradients.keys() != found.gradients.keys()
    ):
        return False
    largest = max(_norm(gradient) for gradient in expected.gradients.values())
    # Asked so that a NaN is a no.
    if not _norm(expected.loss - found.loss) <= tolerance * _norm(expected.loss):
        return False
    return all(
        _norm(gradient - found.gradients[name]) <= tolerance * largest
        for name, gradient in expected.gradients.items()
    )


def _norm(array: mx.array) -> float:
    return number(mx.sqrt(mx.sum(mx.square(array))))
