"""One optimizer step: the mean gradient, its norm, clipping, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.optimizers import AdamW

from adapters.errors import NonFinite
from adapters.training.loss import Sums
from adapters.training.loss import number as value_of
from adapters.training.tree import Parameters

MOMENTS = ("m", "v")

_CURE = (
    "Lower learning_rate, raise warmup_steps, or look for odd rows in the data; nothing was "
    "published and the parent is as it was."
)


@dataclass(frozen=True, slots=True)
class Update:
    """What a step did: mean loss in nats a token, gradient norm before clipping."""

    loss: float
    gradient_norm: float


class Optimizer:
    """AdamW with bias correction (Loshchilov and Hutter 2019, algorithm 2); device thread only.

    Its state is the number of steps taken and two moments for each parameter, by name.
    """

    def __init__(
        self, parameters: Parameters, *, weight_decay: float, max_grad_norm: float
    ) -> None:
        self._max_norm = max_grad_norm
        # Without the correction MLX's first steps are three to six times the learning rate.
        self._adam = AdamW(learning_rate=0.0, weight_decay=weight_decay, bias_correction=True)
        self._adam.init(parameters)
        mx.eval(self._adam.state)

    def step(
        self, parameters: Parameters, sums: Sums, tokens: int, rate: float, *, number: int
    ) -> tuple[Parameters, Update]:
        """New parameters from the sums over ``tokens`` tokens, evaluated, and what was done.

        Raises NonFinite, before anything is changed, where the loss, a gradient or a new parameter
        is not finite; ``number`` counts steps from 1, for the message.
        """
        if sums.loss is None:
            raise RuntimeError("a step without a loss")
        gradients = {name: sums.gradients[name] / tokens for name in parameters}
        norm = mx.sqrt(mx.sum(mx.stack([mx.sum(mx.square(each)) for each in gradients.values()])))
        loss = sums.loss / tokens
        mx.eval(loss, norm)
        _check(number, "loss", loss)
        _check(number, "gradient", norm)
        if self._max_norm:
            factor = mx.minimum(self._max_norm / (norm + 1e-6), 1.0)
            gradients = {name: each * factor for name, each in gradients.items()}
        before = self._copy()
        self._adam.learning_rate = mx.array(rate)
        untyped: Any = self._adam.apply_gradients
        made: Parameters = untyped(gradients, parameters)
        finite = mx.all(mx.stack([mx.all(mx.isfinite(each)) for each in made.values()]))
        mx.eval(made, self._adam.state, finite)
        if not finite.item():
            self._adam.state = before
            raise NonFinite(f"A parameter is not finite after step {number}. {_CURE}")
        return made, Update(value_of(loss), value_of(norm))

    def moments(self) -> dict[str, mx.array]:
        """Both moments of every parameter, by ``m.`` or ``v.`` and its name."""
        return {
            f"{moment}.{name}": state[moment]
            for name, state in self._adam.state.items()
            if isinstance(state, dict)
            for moment in MOMENTS
        }

    def restore(self, step: int, moments: Mapping[str, mx.array]) -> None:
        """Take up the state that another run had after ``step`` steps."""
        state = self._adam.state
        for name, array in moments.items():
            moment, _, parameter = name.partition(".")
            state[parameter][moment] = array
        state["step"] = mx.array(step, mx.uint64)
        mx.eval(state)

    def _copy(self) -> dict[str, Any]:
        state = self._adam.state
        return {
            name: dict(each) if isinstance(each, dict) else each for name, each in state.items()
        }


def _check(number: int, what: str, value: mx.array) -> None:
    if not mx.isfinite(value).item():
        raise NonFinite(f"The {what} of step {number} is not finite: training diverged. {_CURE}")
