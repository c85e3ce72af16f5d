"""What is measured: the scenarios, by key, and loads of the caller's own. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Literal

from scripts.bench.choice import CHOICES, Choice
from scripts.bench.load import Load

Peer = Literal["best", "installed", "none"]
"""In which form mlx_lm.server runs the scenario too, if at all."""

STREAMS = (1, 2, 4, 8, 16, 32)
ADAPTERS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Host:
    """How our own server is started for a scenario; the default is as it is installed.

    ``options`` are further arguments of ``chainlora serve``. At least ``registered`` adapters are
    registered, small ones beside those that are asked. The adapter budget holds ``resident`` of the
    adapters that are asked; 0 leaves it to the server. With ``ends`` the model keeps its end tokens
    and requests ban them: a grammar needs a token to end with.
    """

    options: tuple[str, ...] = ()
    registered: int = 0
    resident: int = 0
    ends: bool = False

    @property
    def label(self) -> str:
        """Its difference from the default, empty for that."""
        parts = list(self.options)
        if self.registered:
            parts.append(f"{self.registered:,} registered")
        if self.ends:
            parts.append("own end tokens")
        if self.resident:
            parts.append(f"room for {self.resident}")
        return " ".join(parts)


AS_INSTALLED = Host()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load on the base (``adapters`` 0) or on so many adapters.

    ``timeout_s`` ends the benchmark, not just the load.
    """

    key: str
    label: str
    adapters: int
    load: Load
    timeout_s: float = 600
    peer: Peer = "best"
    host: Host = AS_INSTALLED

    @property
    def output_is_trivial(self) -> bool:
        """Whether only the first token counts."""
        return self.load.output_tokens <= 2


def best(*, quick: bool) -> tuple[Scenario, ...]:
    """Both servers at their best: seconds to a minute for each load."""
    words, tokens = _size(quick=quick)
    single, many = Load(1, 2, words, tokens), Load(16, 1, words, tokens)
    return (
        Scenario("base-1", "base, 1 stream", 0, single, 300),
        Scenario("base-16", "base, 16 streams", 0, many, 300),
        Scenario("one-1", "one adapter, 1 stream", 1, single, 300),
        Scenario("one-16", "one adapter, 16 streams", 1, many, 300),
        Scenario("eight-1", "8 adapters in turn, 1 stream", 8, Load(1, 4, words, tokens)),
        Scenario("eight-16", "8 adapters, 16 streams", 8, many, 900),
        Scenario("prompt-base", "256-token prompt, base", 0, Load(1, 3, 224, 2), 300),
        Scenario("prompt-one", "256-token prompt, one adapter", 1, Load(1, 3, 224, 2), 300),
    )


def installed(*, quick: bool) -> tuple[Scenario, ...]:
    """The peer as a user installs it, which takes seconds for a token on a Linux CPU."""
    single = Scenario("installed-1", "base, 1 stream", 0, Load(1, 1, 6, 4), 900, "installed")
    if quick:
        return (single,)
    many = Load(16, 1, 6, 3)
    return (single, Scenario("installed-16", "base, 16 streams", 0, many, 2400, "installed"))


def open_loads(*, quick: bool) -> tuple[Scenario, ...]:
    """Poisson arrivals."""
    words, tokens = _size(quick=quick)
    load = Load(24, 1, words, tokens, choice="zipf", rate=0.5)
    return (
        Scenario("poisson-base", "base, 0.5 requests/s", 0, load),
        Scenario("poisson-zipf", "8 adapters by Zipf, 0.5 requests/s", 8, load, 900),
    )


def parts_of_ours(*, quick: bool) -> tuple[Scenario, ...]:
    """What parts of our engine give and cost: each with the same load without it."""
    words, tokens = _size(quick=quick)
    turns = Load(4, 4, words, tokens, talk="turns")
    system = Load(8, 2, 16, tokens, system_words=4 * words)
    echo = Load(1, 2, words, 2 * words, talk="echo")
    echoes = replace(echo, streams=8, requests=1)
    half = Load(16, 1, words, tokens, constrained=8)
    eight, many = Load(8, 1, words, tokens), Load(16, 1, words, tokens)
    zipf = Load(16, 4, words, tokens, choice="zipf")
    no_prefix, no_guess = Host(("--prefix-cache-bytes", "0")), Host(("--speculate", "off"))
    ends, ends_no_guess = Host(ends=True), Host(("--speculate", "off"), ends=True)
    kv_8, kv_4 = Host(("--kv-bits", "8")), Host(("--kv-bits", "4"))
    said, shared = "4 chats of 4 turns", "one system prompt, 8 streams"
    return (
        Scenario("turns", said, 0, turns),
        _ours("turns-none", f"{said}, no prefix kept", 0, turns, no_prefix),
        Scenario("system", shared, 0, system),
        _ours("system-none", f"{shared}, no prefix kept", 0, system, no_prefix),
        Scenario("echo-1", "echo, 1 stream", 0, echo),
        _ours("echo-1-none", "echo, 1 stream, no guesses", 0, echo, no_guess),
        Scenario("echo-8", "echo, 8 streams", 0, echoes),
        _ours("echo-8-none", "echo, 8 streams, no guesses", 0, echoes, no_guess),
        _ours("registered-8", "8 adapters, 8 streams", 8, eight, AS_INSTALLED),
        _ours("registered-1000", "8 adapters of 1,000, 8 streams", 8, eight, Host((), 1000)),
        _ours("hits-64", "64 adapters by Zipf, 16 streams", 64, zipf, AS_INSTALLED),
        _ours("hits-64-room-16", "64 adapters by Zipf, room for 16", 64, zipf, Host((), 0, 16)),
        _ours("free", "16 free rows, no guesses", 0, many, ends_no_guess),
        _ours("half-free", "8 free beside 8 constrained, no guesses", 0, half, ends_no_guess),
        _ours("free-guess", "16 free rows", 0, many, ends),
        _ours("half-free-guess", "8 free beside 8 constrained", 0, half, ends),
        _ours("kv-8", "base, 16 streams, KV in 8 bits", 0, many, kv_8),
        _ours("kv-4", "base, 16 streams, KV in 4 bits", 0, many, kv_4),
    )


def sweeps(*, quick: bool) -> tuple[Scenario, ...]:
    """Over the number of streams, and over the number of adapters by each way to choose them."""
    words, tokens = _size(quick=quick)
    over_streams = [
        own_load(f"streams-{streams}", 8, Load(streams, 1, words, tokens)) for streams in STREAMS
    ]
    over_adapters = [
        own_load(f"{choice}-{count}", count, Load(16, 1, words, tokens, choice=choice))
        for choice, count in product(CHOICES, ADAPTERS)
    ]
    return (*over_streams, *over_adapters)


def catalogue(*, quick: bool) -> tuple[Scenario, ...]:
    """Every scenario that can be asked for by key."""
    makers = (best, installed, open_loads, parts_of_ours, sweeps)
    return tuple(scenario for make in makers for scenario in make(quick=quick))


def by_keys(scenarios: Iterable[Scenario], keys: Sequence[str]) -> tuple[Scenario, ...]:
    """The scenarios whose keys are asked for, ``*`` stands for anything; in their own order.

    Raises ValueError for a key that fits none.
    """
    among = tuple(scenarios)
    for key in keys:
        if not any(fnmatchcase(scenario.key, key) for scenario in among):
            raise ValueError(f"no scenario is called {key!r}; --list shows them")
    return tuple(
        scenario for scenario in among if any(fnmatchcase(scenario.key, key) for key in keys)
    )


def own_loads(
    load: Load, streams: Sequence[int], adapters: Sequence[int], choices: Sequence[Choice]
) -> tuple[Scenario, ...]:
    """``load`` with every combination of the three.

    On the base there is nothing to choose: the first choice stands for all. Raises
    ValueError for a number that cannot be.
    """
    if min(adapters) < 0:
        raise ValueError(f"{min(adapters)} adapters; 0 is the base")
    return tuple(
        own_load(
            f"{choice}-{count}-streams-{several}",
            count,
            replace(load, streams=several, choice=choice),
        )
        for choice, count, several in product(choices, adapters, streams)
        if count or choice == choices[0]
    )


def own_load(key: str, adapters: int, load: Load) -> Scenario:
    """A scenario that is labelled by what it does."""
    models = "base" if not adapters else "one adapter" if adapters == 1 else f"{adapters} adapters"
    if adapters > 1:
        models += " by Zipf" if load.choice == "zipf" else f", {load.choice}"
    how = f"{load.streams} stream{'s' if load.streams > 1 else ''}"
    if load.rate:
        how = f"{load.streams * load.requests} requests at {load.rate:g}/s"
    return Scenario(key, f"{models}, {how}", adapters, load, 900)


def for_names(scenarios: Iterable[Scenario], adapters: int) -> tuple[Scenario, ...]:
    """Those that a server with so many adapters can run by the same words; eight may be fewer."""
    return tuple(
        replace(scenario, adapters=min(scenario.adapters, adapters))
        for scenario in scenarios
        if not scenario.adapters or (scenario.adapters == 8 and adapters)
    )


def _size(*, quick: bool) -> tuple[int, int]:
    """(words of a prompt, tokens of an answer)"""
    return (64, 16) if quick else (128, 48)


def _ours(key: str, label: str, adapters: int, load: Load, host: Host) -> Scenario:
    return Scenario(key, label, adapters, load, 600, "none", host)
