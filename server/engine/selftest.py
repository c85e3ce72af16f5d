"""Every fast path of the engine against a slow one that cannot be wrong, on this very device.

We cannot test on every device; the user's machine can (DESIGN 4). No model is needed: layers, a
two-block llama and the adapters are drawn at random. A path that mixes rows up, or a kernel that
computes something else, is off by the size of the numbers themselves, so the tolerances are wide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear

from adapters.base.device import device_kind
from adapters.lora import ResidentAdapter
from adapters.lora.routes import GatherRoute, Mixture, Route, Row, UniformRoute
from server.core.messages import Sampling
from server.engine.draw import uniform
from server.engine.sampling import BatchSampler, SamplingRow
from server.engine.selftest_kv import largest_difference
from server.engine.selftest_rows import differences

_IN, _OUT = 128, 192
_PLAIN, _QUANTIZED = "attention.q_proj", "attention.k_proj"
"""Two layers whose names say that they get the same input."""
_TOLERANCE = {mx.float32: 1e-3, mx.float16: 2e-2, mx.bfloat16: 6e-2}
_UNSAFE = "This device computes something else than it should: please report it with this output."


@dataclass(frozen=True, slots=True)
class Check:
    """One path that was tried. ``detail`` is the evidence, ``cure`` what to do after a failure."""

    name: str
    passed: bool
    detail: str
    cure: str = ""


def run_selftest() -> tuple[Check, ...]:
    """Try every path on MLX's default device; never raises for a path that fails.

    Runs MLX on the calling thread and, for whole requests, on an engine's own; some seconds.
    """
    dtypes = [mx.float32] if device_kind() == "cpu" else list(_TOLERANCE)
    routes = [
        _attempt(f"{name} route, {_name(dtype)}", check_routes, name, dtype)
        for dtype in dtypes
        for name in ROUTES
    ]
    caches = [
        _attempt(f"KV cache of {bits} bits, {_name(dtype)}", check_kv, bits, dtype)
        for dtype in dtypes
        for bits in (8, 4)
    ]
    return (
        *routes,
        *caches,
        _attempt("sampling, any place in the batch", check_places),
        _attempt("sampling, the right distribution", check_draws),
        _attempt("mixed batch against one row alone", check_mixed),
    )


def _attempt(name: str, check: Callable[..., str], *arguments: object) -> Check:
    try:
        return Check(name, True, check(*arguments))
    except Exception as error:  # noqa: BLE001  # a failing device may raise anything
        return Check(name, False, f"{type(error).__name__}: {error}", _UNSAFE)


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


class Differs(Exception):
    """A fast path and its slow reference disagree."""


def _uniform_route(rows: Sequence[Row]) -> Iterator[tuple[Route, Sequence[Row]]]:
    for adapter in dict.fromkeys(row for row in rows if row is not None):
        yield UniformRoute(adapter), [adapter] * len(rows)


def _gather_route(rows: Sequence[Row]) -> Iterator[tuple[Route, Sequence[Row]]]:
    adapters = list(dict.fromkeys(row for row in rows if row is not None))
    yield GatherRoute(rows, Mixture(adapters)), rows


ROUTES = {"uniform": _uniform_route, "gather": _gather_route}
"""The forms of a route, each for the same rows."""


def check_routes(name: str, dtype: mx.Dtype) -> str:
    """One route form against a loop over rows; Differs where a row got another update than its own.

    Ranks, targets and the bare base are mixed; a row whose adapter overflows must not touch others.
    """
    key = mx.random.key(7)
    rows: list[Row] = [None, *_adapters(dtype)]
    rows = [*rows, *reversed(rows)]
    worst = 0.0
    for length in (1, 5):
        x = mx.random.normal((len(rows), length, _IN), key=key).astype(dtype)
        for path, linear in _layers(dtype).items():
            y = linear(x)
            for route, expected in ROUTES[name](rows):
                wanted = mx.concatenate(
                    [_one(row, path, linear, x[i : i + 1]) for i, row in enumerate(expected)]
                )
                worst = max(
                    worst, _worst(route.add(path, x, y), wanted, f"{path}, {length} tokens")
                )
    if worst > _TOLERANCE[dtype]:
        raise Differs(f"off by {worst:.1e} of the largest number")
    return f"{len(rows)} rows of 4 adapters and the base, off by {worst:.1e}"


def _layers(dtype: mx.Dtype) -> dict[str, Module]:
    """A plain and a quantized layer."""
    plain = Linear(_IN, _OUT, bias=False)
    plain.weight = mx.random.normal((_OUT, _IN), key=mx.random.key(1)).astype(dtype)
    return {_PLAIN: plain, _QUANTIZED: plain.to_quantized(group_size=32, bits=4)}


def _adapters(dtype: mx.Dtype) -> list[ResidentAdapter]:
    """Ranks 4, 8 and 16, of which two skip a module, and one whose products overflow."""
    both = (_PLAIN, _QUANTIZED)
    kinds = [(4, (_PLAIN,)), (8, both), (16, (_QUANTIZED,)), (8, both)]
    huge = 6e4 if dtype == mx.float16 else 3e38
    made = []
    for seed, (rank, paths) in enumerate(kinds):
        modules = {}
        for number, path in enumerate(paths):
            for_a, for_b = mx.random.split(mx.random.key(100 * seed + number), 2)
            a = mx.random.normal((_IN, rank), key=for_a)
            if seed == len(kinds) - 1:
                a = huge * mx.sign(a)
            b = mx.random.normal((rank, _OUT), key=for_b)
            modules[path] = (a.astype(dtype), b.astype(dtype))
        made.append(ResidentAdapter.of(f"r{seed}", modules))
    return made


def _one(row: Row, path: str, linear: Module, x: mx.array) -> mx.array:
    """What one row alone gets, in two plain products."""
    pair = None if row is None else row.pair(path)
    y: mx.array = linear(x)
    return y if pair is None else y + (x @ pair[0]) @ pair[1]


def _worst(got: mx.array, wanted: mx.array, where: str) -> float:
    """The largest difference, in units of the largest wanted number, over the finite rows.

    Raises Differs where a number is finite on one side only.
    """
    left, right = np.array(got.astype(mx.float32)), np.array(wanted.astype(mx.float32))
    finite = np.isfinite(right)
    if not (np.isfinite(left) == finite).all():
        raise Differs(f"{where}: a row is not finite, or finite, because of another row")
    if not finite.any():
        return 0.0
    return float(np.abs(left[finite] - right[finite]).max() / np.abs(right[finite]).max())


def check_kv(bits: int, dtype: mx.Dtype) -> str:
    """A batch's attention over quantized keys and values against each row's alone."""
    worst = largest_difference(bits, dtype)
    if not worst <= _TOLERANCE[dtype]:
        raise Differs(f"off by {worst:.1e} of the largest number")
    return f"3 padded rows in steps of 1 and 20 tokens, off by {worst:.1e}"


_SETTINGS = (
    Sampling(seed=40, temperature=0.0),
    Sampling(seed=41),
    Sampling(seed=42, temperature=0.7, top_k=20),
    Sampling(seed=43, top_p=0.8),
    Sampling(seed=44, min_p=0.05, temperature=1.3),
    Sampling(seed=45, top_p=0.9, top_k=50, presence_penalty=0.5, frequency_penalty=0.3),
    Sampling(seed=46, repetition_penalty=1.3, logit_bias=((3, 2.0),)),
)
_VOCABULARY = 5000


def check_places() -> str:
    """Seeded rows draw the same tokens alone, together and in another order."""
    key = mx.random.key(11)
    logits = 3 * mx.random.normal((len(_SETTINGS), _VOCABULARY), key=key)
    rows = [SamplingRow(settings, (3, 4, 5), (4, 9)) for settings in _SETTINGS]
    draws = 12
    for position in range(2, 2 + draws):
        alone = [
            _draw([row], logits[index : index + 1], position)[0] for index, row in enumerate(rows)
        ]
        for order in (list(range(len(rows))), list(reversed(range(len(rows))))):
            together = _draw([rows[i] for i in order], logits[mx.array(order)], position)
            if together != [alone[i] for i in order]:
                raise Differs(f"position {position}: {together} in a batch, {alone} alone")
    return f"{draws} draws of {len(rows)} rows, three ways each, are equal"


def _draw(rows: Sequence[SamplingRow], logits: mx.array, position: int) -> list[int]:
    pending = mx.full((len(rows),), -1, mx.int32)
    sampler = BatchSampler(rows, _VOCABULARY, pending)
    tokens, _ = sampler.sample(logits, [position] * len(rows))
    return [int(token) for token in np.array(tokens)]


def check_draws() -> str:
    """A plain draw inverts the distribution at the row's own number, as NumPy computes it."""
    count = 64
    logits = 2 * mx.random.normal((count, _VOCABULARY), key=mx.random.key(13))
    rows = [SamplingRow(Sampling(seed=number), (1,), ()) for number in range(count)]
    drawn = _draw(rows, logits, 0)
    weights = np.exp(np.array(logits).astype(np.float64))
    ends = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    for number, token in enumerate(drawn):
        low = ends[number, token - 1] if token else 0.0
        at = uniform(number, 0)
        if not low - 1e-4 <= at <= ends[number, token] + 1e-4:
            raise Differs(f"row {number} drew {token} at {at:.4f}, outside {low:.4f} and after")
    return f"{count} draws fall where the distribution says"


def check_mixed() -> str:
    """Whole requests on an engine: batched and staggered against one after the other."""
    compared, excused, faults = asyncio.run(differences())
    if faults:
        raise Differs(faults[0])
    if excused * 100 > compared:
        raise Differs(f"{excused} of {compared} tokens were too close to call")
    return f"{compared} tokens of base and adapters, {excused} of them too close to call"
