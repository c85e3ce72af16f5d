"""A row of the engine and the forward that all rows share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache

from adapters.base.output_layer import OutputLayer
from adapters.base.quantized_kv import KVQuantization
from adapters.lora import ResidentAdapter, Router
from adapters.lora.routes import Route
from server.core.errors import NonFiniteOutput
from server.core.lookup import Lookup
from server.core.messages import Generate
from server.engine.grammars import Matcher
from server.engine.residual import Cut, Stream
from server.engine.sampling import SamplingRow


@dataclass(eq=False, slots=True)
class Row:
    """One generation in progress; device thread only.

    ``tokens`` must be in the KV cache before the next token can be drawn: the prompt, and after a
    preemption also what was generated before it. The first ``cached`` of them are in ``caches``,
    those of ``Forward.make_caches``, which the row owns until it joins a decode batch. ``reused``
    of the prompt were found there when it first began; what it leaves is kept for others where
    ``is_kept``. What lies below ``cut`` it shares with other revisions, by ``stream`` while its
    prompt is being computed; there the caches below may hold more than ``cached``. ``reported``
    counts the prompt's tokens whose probabilities are known to the
    reader, the first among them. ``pooled`` is the sum of the hidden states of the prompt's first
    ``cached`` tokens, (width,) in float32, in a row that wants their mean. ``matcher`` has taken
    what was generated, in a row with a constraint.
    """

    request: Generate
    tokens: tuple[int, ...]
    adapter: ResidentAdapter | None = None
    cut: Cut | None = None
    caches: list[Any] | None = None
    cached: int = 0
    reused: int | None = None
    is_kept: bool = True
    stream: Stream | None = None
    generated: list[int] = field(default_factory=list)
    matcher: Matcher | None = None
    reported: int = 1
    pooled: mx.array | None = None
    lookup: Lookup | None = None

    @property
    def reports(self) -> bool:
        """Whether the tokens left to prefill have probabilities to report."""
        return self.request.prompt_logprobs is not None and self.reported < len(self.request.prompt)

    @property
    def reusable(self) -> tuple[int, ...]:
        """The tokens that need not be computed where their KV is kept.

        Not the last one, whose logits draw the next, nor any whose logits or states are wanted.
        """
        if self.request.pooled:
            return ()
        return self.tokens[: self.reported - 1 if self.reports else -1]

    @property
    def to_prefill(self) -> int:
        """Tokens left before the last one, which the first decode step computes.

        A row that is pooled has none, and computes its last token too.
        """
        return len(self.tokens) - (not self.request.pooled) - self.cached

    @property
    def entry(self) -> Stream | None:
        """The residual stream of tokens that are to be computed above the cut alone, if any."""
        has_more = self.stream is not None and self.stream.stop > self.cached
        return self.stream if has_more else None

    @property
    def form(self) -> tuple[Cut | None, bool]:
        """What rows of one piece have in common: the cut they enter at, whether they report."""
        return (None, self.reports) if self.entry is None else (self.entry.cut, False)

    @property
    def to_prefill_now(self) -> int:
        """Tokens that can be computed in pieces of the present form."""
        return self.to_prefill if self.entry is None else self.entry.stop - self.cached

    @property
    def last(self) -> int:
        """The token that the row goes on from."""
        return self.generated[-1] if self.generated else self.request.prompt[-1]

    @property
    def length(self) -> int:
        """Tokens that the row holds in a KV cache while it decodes."""
        return len(self.request.prompt) + len(self.generated)

    def ends_at(self, token: int) -> bool:
        """Whether ``token`` is no text but its end."""
        ends = self.request.end_tokens
        return token in ends or (self.matcher is not None and token in self.matcher.end_tokens)

    def sampling_row(self) -> SamplingRow:
        """What the sampler must know."""
        return SamplingRow(self.request.sampling, self.request.prompt, self.generated)

    def not_finite(self) -> NonFiniteOutput:
        """Why a row ends whose logits are not finite."""
        where = (
            "in the prompt"
            if self.reports or self.request.pooled
            else f"after {len(self.generated)} tokens"
        )
        if self.request.revision is None:
            return NonFiniteOutput(f"The base's output is not finite {where}; check its files.")
        return NonFiniteOutput(
            f"The adapter's output is not finite {where}: its training diverged. Use an earlier "
            "revision of the chain, or train it again with a lower learning rate.",
            param="model",
        )

    def rewind(self) -> None:
        """Give up the KV cache; prompt and generated tokens are to be computed again."""
        self.tokens = (*self.request.prompt, *self.generated)
        self.caches = None
        self.cached = 0
        self.adapter = None


class Forward:
    """The base model with its routed layers."""

    def __init__(
        self, model: Module, router: Router, vocabulary: int, kv: KVQuantization | None = None
    ) -> None:
        self.model = model
        self._kv = kv
        self._head = OutputLayer(model)
        self.router = router
        self.vocabulary = vocabulary

    def __call__(self, tokens: mx.array, caches: Sequence[Any], route: Route) -> mx.array:
        """Logits (rows, length, vocab) of ``tokens`` (rows, length); extends ``caches`` lazily."""
        with self.router.routing(route):
            logits: mx.array = self.model(tokens, cache=self._layers(caches, tokens))
        return logits

    def hidden(self, tokens: mx.array, caches: Sequence[Any], route: Route) -> mx.array:
        """What the output layer would be given, (rows, length, width); else as a call.

        Raises HeadNotFound as ``check_hidden``.
        """
        with self.router.routing(route):
            return self._head.input(tokens, self._layers(caches, tokens))

    def check_hidden(self) -> None:
        """Raise HeadNotFound where the model's hidden states cannot be told; small, and once."""
        with self.router.routing(self.router.plan([None])):
            self._head.find()

    def _layers(self, caches: Sequence[Any], tokens: mx.array) -> Sequence[Any]:
        if self._kv is None:
            return caches
        return self._kv.layers(caches, tokens=tokens.shape[1])

    def make_caches(self) -> list[Any]:
        """Empty caches for one row: one per layer, two where the KV is quantized."""
        if self._kv is not None:
            return self._kv.make_caches(self.model)
        caches: list[Any] = make_prompt_cache(self.model)
        return caches


def merge(caches: Sequence[Sequence[Any]]) -> list[Any]:
    """The layers' batch caches of several rows' own caches."""
    return [layer[0].merge(list(layer)) for layer in zip(*caches, strict=True)]
