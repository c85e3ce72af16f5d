"""Requests of many chains through a small engine, together and alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx.nn.layers.quantized import quantize
from mlx_lm.models import llama

from adapters.base.device import compute_dtype, device_kind
from adapters.base.linear import use_float32_layers
from adapters.formats.arrays import HostArray
from adapters.formats.mlx_lm import AdapterFiles
from adapters.lora import Router
from adapters.shape import LoraShape
from server.core.messages import Failed, Generate, Sampling, Token
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine

_VOCABULARY = 512
_TOKENS = 24
_CLOSE = 2e-3
"""Where the two best log-probabilities lie nearer, either token is right (DESIGN 1)."""
_LIMITS = Limits(
    max_rows=16,
    prefill_rows=4,
    prefill_block_s=0.05,
    queue_limit=64,
    event_queue_limit=4 * _TOKENS,
    adapter_budget_bytes=2**28,
    kv_budget_tokens=16_384,
)
_RANKS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "r4": (4, ("self_attn.q_proj", "self_attn.v_proj")),
    "r8": (8, ("mlp.down_proj", "self_attn.o_proj", "mlp.gate_proj")),
    "r16": (16, ("self_attn.q_proj", "mlp.up_proj", "self_attn.k_proj")),
}


def load_random_model() -> LoadedModel:
    """A two-block llama with random 4-bit weights, in the form that this device serves."""
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=_VOCABULARY,
        tie_word_embeddings=False,
    )
    mx.random.seed(5)
    model = llama.Model(arguments)
    # Sharper than chance: the greedy path should hang on the weights, not on the last bit.
    model.lm_head.weight = 6 * model.lm_head.weight
    quantize(model, group_size=32, bits=4)
    dtype = compute_dtype(device_kind())
    if dtype is not None:
        model.set_dtype(dtype)
        use_float32_layers(model, dense=True)
    mx.eval(model.parameters())
    name = "float32" if dtype is None else str(dtype).removeprefix("mlx.core.")
    return LoadedModel(model, _VOCABULARY, name)


class RandomAdapters:
    """Three adapters of different ranks and targets, the bare minimum of an adapter source."""

    def __init__(self) -> None:
        shapes = Router(load_random_model().model).shapes
        self._files = {
            name: _files(seed, rank, targets, shapes)
            for seed, (name, (rank, targets)) in enumerate(_RANKS.items())
        }

    def read(self, revision: str) -> AdapterFiles:
        """The arrays of r4, r8 or r16."""
        return self._files[revision]

    def registered(self) -> int:
        """Three."""
        return len(self._files)


async def differences() -> tuple[int, int, list[str]]:
    """Tokens compared, tokens too close to call, and each real difference in words."""
    engine = MlxEngine(load_random_model, _LIMITS, RandomAdapters())
    await engine.start()
    try:
        requests = [
            _request(number, revision)
            for number, revision in enumerate([None, "r4", "r8", None, "r16", "r4", "r8", "r16"])
        ]
        alone = [await _tokens(engine, request) for request in requests]
        first = [asyncio.create_task(_tokens(engine, request)) for request in requests[:4]]
        await first[0]  # by now the others are in mid-answer or done: the rest joins them there
        rest = [asyncio.create_task(_tokens(engine, request)) for request in requests]
        together = [*await asyncio.gather(*first), *await asyncio.gather(*rest)]
    finally:
        await engine.stop(grace_s=0)
    compared, excused, faults = 0, 0, []
    for request, reference, tokens in zip(
        [*requests[:4], *requests], [*alone[:4], *alone], together, strict=True
    ):
        equal, close = _common(reference, tokens)
        compared += equal + close
        excused += close
        if equal < _TOKENS and not close:
            faults.append(
                f"{request.revision or 'base'}: token {equal} is {tokens[equal].token} in the "
                f"batch and {reference[equal].token} alone"
            )
    return compared, excused, faults


def _common(reference: Sequence[Token], tokens: Sequence[Token]) -> tuple[int, int]:
    """(tokens before the first difference, 1 if the reference was undecided there else 0)."""
    for index, (wanted, got) in enumerate(zip(reference, tokens, strict=True)):
        if wanted.token != got.token:
            (_, best), (_, second) = wanted.logprobs.top if wanted.logprobs else ((0, 0.0),) * 2
            return index, int(best - second < _CLOSE)
    return len(reference), 0


_ids = itertools.count()


def _request(number: int, revision: str | None) -> Generate:
    length = 3 + 7 * (number % 4)
    return Generate(
        request_id="",
        prompt=tuple((31 * number + 17 * place) % _VOCABULARY for place in range(length)),
        max_tokens=_TOKENS,
        sampling=Sampling(seed=1, temperature=0.0, logprobs=2),
        end_tokens=frozenset(),
        revision=revision,
        flow=revision or "",
    )


async def _tokens(engine: MlxEngine, request: Generate) -> list[Token]:
    tokens = []
    async for event in engine.submit(replace(request, request_id=f"self-{next(_ids)}")):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Token):
            tokens.append(event)
    return tokens


def _files(
    seed: int, rank: int, targets: Sequence[str], shapes: Mapping[str, tuple[int, int]]
) -> AdapterFiles:
    draw = np.random.default_rng(seed)
    tensors = {
        path: (_host(draw, (inputs, rank), inputs**-0.5), _host(draw, (rank, outputs), 0.3))
        for path, (inputs, outputs) in shapes.items()
        if path.endswith(tuple(targets))
    }
    return AdapterFiles(
        LoraShape(rank=rank, scale=2.0, num_layers=-1, keys=tuple(targets)), tensors
    )


def _host(draw: np.random.Generator, shape: tuple[int, int], size: float) -> HostArray:
    values = (size * draw.standard_normal(shape)).astype(np.float32)
    return HostArray("F32", shape, values.tobytes())
