"""What crosses the boundary between the HTTP side and the device thread.

Down goes ``Generate`` and, as the only other arrow, a cancellation by request id. Up come events:
where they are asked for, ``PromptLogprobs`` of the whole prompt or its ``Pooled`` state, then any
number of ``Token``, then exactly one ``Finished`` or ``Failed``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from server.core.errors import ServeError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn.

    ``temperature`` 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``repetition_penalty`` 1
    switch the respective filter off. The draw at output position ``i`` is a function of ``seed``
    and ``i`` alone, never of the row's place in the batch. Presence and frequency penalties count
    generated tokens (OpenAI); the repetition penalty counts prompt and generated tokens (CTRL).
    ``logprobs`` is the number of alternatives reported beside each token, None for no report.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a row's whole text must be, down to its end.

    ``source`` by ``kind``: ``json_schema`` the schema as JSON, ``json_object`` nothing, ``regex`` a
    pattern of Rust's syntax that the text must match from end to end, ``choice`` a JSON list of
    strings, ``lark`` a grammar in llguidance's dialect. ``field`` is the request's field that
    errors name; it is no part of what makes two constraints equal.
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "lark"]
    source: str = ""
    field: str = field(default="response_format", compare=False)


@dataclass(frozen=True, slots=True)
class Generate:
    """One row of generation: a tokenised prompt, continued by the base or by one revision.

    ``revision`` is the revision id that the name was resolved to, None for the bare base.
    ``flow`` is the fairness key (the chain's name, "" for the base); a lower ``priority`` starts
    earlier. ``prompt`` is not empty; with ``max_tokens`` 0 it is only read. Generation ends with
    the first of ``end_tokens``, which is reported in no ``Token`` event. With a ``constraint`` an
    end token is drawn only where the text is whole, so that a text that is not whole ends by LENGTH
    or CANCELLED alone.
    ``prompt_logprobs`` is the number of alternatives reported beside each token of the prompt but
    the first, None for no report. With ``pooled`` the prompt's mean hidden state is reported; such
    a row generates nothing: its ``max_tokens`` is 0, and it has no ``prompt_logprobs``.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    end_tokens: frozenset[int]
    revision: str | None = None
    flow: str = ""
    priority: int = 0
    constraint: Constraint | None = None
    prompt_logprobs: int | None = None
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities under the model's own distribution, before any sampling filter.

    ``top`` holds (token id, log-probability), best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    token: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The next tokens of the prompt, in order; the first of all has nothing before it and no place.

    A prompt's report comes in as many of these as the device takes pieces to read it.
    """

    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Pooled:
    """The mean over a whole prompt of what the model gives to its output layer, in float32.

    That is the last hidden state behind the final norm, of every token, the last one included.
    """

    mean: tuple[float, ...]


class FinishReason(enum.StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """An end token was drawn."""
    LENGTH = "length"
    """``max_tokens`` were generated."""
    CANCELLED = "cancelled"
    """``cancel`` was called."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a generation that ended as it should. Counts are tokens.

    ``cached_tokens`` of the prompt were not computed, because an earlier row had left them.
    ``end`` is the end token that was drawn, with what was asked about each token.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    end: Token | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a generation that could not go on."""

    error: ServeError


Event = PromptLogprobs | Pooled | Token | Finished | Failed


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine. Counts are rows, sizes bytes, times seconds.

    ``prompt_tokens`` counts what was computed, ``prefix_cache_tokens`` what was found computed, in
    ``prefix_cache_hits`` rows, ``prefix_cache_shared_tokens`` those of the computed for which only
    the blocks that a chain adapts were. ``lent_pieces`` counts the pieces of other work that had
    the device, ``lent_s`` their time. ``guessed_tokens`` counts those that speculation had
    verified, ``accepted_tokens`` those of them that were drawn. ``mixture_bytes`` is what copies of
    adapters take that mixed batches read. ``kv_bytes`` is what the rows' KV caches take, with the
    room that they have in reserve. ``adapter_hits`` counts rows whose adapter was resident when
    they came, ``adapter_misses`` those that had to wait for it. ``row_s`` is how far apart rows end
    while there are any, 0 before the second one. ``memory_bytes`` is what the process's arrays take
    on the device.
    """

    state: str
    waiting: int = 0
    prefilling: int = 0
    decoding: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    registered_adapters: int = 0
    resident_adapters: int = 0
    resident_bytes: int = 0
    mixture_bytes: int = 0
    adapter_budget_bytes: int = 0
    adapter_hits: int = 0
    adapter_misses: int = 0
    adapter_loads: int = 0
    adapter_evictions: int = 0
    kv_bytes: int = 0
    kv_tokens: int = 0
    kv_budget_tokens: int = 0
    prefix_cache_bytes: int = 0
    prefix_cache_budget_bytes: int = 0
    prefix_cache_blocks: int = 0
    prefix_cache_hits: int = 0
    prefix_cache_tokens: int = 0
    prefix_cache_shared_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_step_s: float = 0.0
    row_s: float = 0.0
    lent_pieces: int = 0
    lent_s: float = 0.0
    longest_piece_s: float = 0.0
    memory_bytes: int = 0
    peak_memory_bytes: int = 0
    integrity: str = "ok"
