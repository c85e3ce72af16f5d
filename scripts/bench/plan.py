"""What is measured: the scenarios and their loads. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scripts.bench.load import Load

Models = Literal["base", "one", "eight"]
"""The bare base, one adapter, or streams that alternate over eight."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load on one choice of models; ``timeout_s`` ends the benchmark, not just the load."""

    key: str
    label: str
    models: Models
    load: Load
    timeout_s: float

    @property
    def output_is_trivial(self) -> bool:
        """Whether only the first token counts."""
        return self.load.output_tokens <= 2


def best(*, quick: bool) -> tuple[Scenario, ...]:
    """Both servers at their best: seconds to a minute for each load."""
    words, tokens = (64, 16) if quick else (128, 48)
    single, many = Load(1, 2, words, tokens), Load(16, 1, words, tokens)
    return (
        Scenario("base-1", "base, 1 stream", "base", single, 300),
        Scenario("base-16", "base, 16 streams", "base", many, 300),
        Scenario("one-1", "one adapter, 1 stream", "one", single, 300),
        Scenario("one-16", "one adapter, 16 streams", "one", many, 300),
        Scenario(
            "eight-1", "8 adapters in turn, 1 stream", "eight", Load(1, 4, words, tokens), 600
        ),
        Scenario("eight-16", "8 adapters, 16 streams", "eight", many, 900),
        Scenario("prompt-base", "256-token prompt, base", "base", Load(1, 3, 224, 2), 300),
        Scenario("prompt-one", "256-token prompt, one adapter", "one", Load(1, 3, 224, 2), 300),
    )


def installed(*, quick: bool) -> tuple[Scenario, ...]:
    """The peer as a user installs it, which takes seconds for a token on a Linux CPU."""
    single = Scenario("base-1", "base, 1 stream", "base", Load(1, 1, 6, 4), 900)
    if quick:
        return (single,)
    return (single, Scenario("base-16", "base, 16 streams", "base", Load(16, 1, 6, 3), 2400))
