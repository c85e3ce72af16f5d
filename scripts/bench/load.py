"""The load: what is asked, of which model, by how many streams at once or how often."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from scripts.bench.arrivals import poisson
from scripts.bench.asks import PEOPLE, Talk, messages, prompt, question
from scripts.bench.choice import Choice, pick
from scripts.bench.exchange import LoadError, exchange
from scripts.bench.stats import Trace
from server.chat import ChatError

_HEAD_START_S = 0.05
"""Before the first arrival of an open load every thread should stand ready."""


@dataclass(frozen=True, slots=True)
class Load:
    """``streams`` clients at once, each sending ``requests`` one after the other: a closed loop.

    With a ``rate`` the same number of requests arrives as a Poisson process, so many per second,
    whether or not earlier ones are answered; what waits then waits from its arrival on.
    ``prompt_words`` is close to the prompt's length in tokens, as the words are common ones, and
    ``system_words`` that of a system message that all requests have in common.
    ``output_tokens`` is the most that is asked for; see ``Target.exact``. The first ``constrained``
    streams ask for JSON by a schema, which does not end before that.
    Raises ValueError for a load that cannot be.
    """

    streams: int
    requests: int
    prompt_words: int
    output_tokens: int
    choice: Choice = "distinct"
    rate: float = 0.0
    talk: Talk = "apart"
    system_words: int = 0
    constrained: int = 0

    def __post_init__(self) -> None:
        for name in ("streams", "requests", "prompt_words", "output_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}, at least 1")
        if self.rate < 0 or self.system_words < 0:
            raise ValueError("a rate and the words of a system message are at least 0")
        if not 0 <= self.constrained <= self.streams:
            raise ValueError(f"{self.constrained} of {self.streams} streams cannot be constrained")
        if self.rate and self.talk == "turns":
            raise ValueError("the turns of a chat follow each other: no rate for them")


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test: its address, and the request fields that name each model.

    With ``exact`` an answer that ends before ``Load.output_tokens`` is an error: the model's end
    token was to be out of reach, and another length would measure another load.
    """

    url: str
    models: Sequence[Mapping[str, Any]]
    exact: bool = True


def run_load(target: Target, load: Load, *, seed: str, timeout_s: float) -> list[Trace]:
    """Run the whole load and return a trace for each request.

    All streams start together. Raises LoadError for the first request that failed or when
    ``timeout_s`` is over; no thread is left behind then, because every socket has that deadline.
    """
    run = _Run(target, load, seed, timeout_s)
    if load.rate:
        arrivals = poisson(load.rate, load.streams * load.requests, f"{seed}/arrivals")
        begin = time.perf_counter() + _HEAD_START_S
        clients: list[Callable[[], None]] = [
            partial(run.arrival, number, begin + after) for number, after in enumerate(arrivals)
        ]
    else:
        clients = [partial(run.stream, number) for number in range(load.streams)]
    threads = [threading.Thread(target=run.guard, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if run.errors:
        error = run.errors[0]
        raise LoadError(f"{target.url}: {type(error).__name__}: {error}") from error
    return run.traces


class _Run:
    """What the clients of one load share. One failure ends them all."""

    def __init__(self, target: Target, load: Load, seed: str, timeout_s: float) -> None:
        self.target, self.load, self.seed = target, load, seed
        self.traces: list[Trace] = []
        self.errors: list[Exception] = []
        self._timeout_s = timeout_s
        self._deadline = time.perf_counter() + timeout_s
        self._failed = threading.Event()
        self._start = threading.Barrier(load.streams)
        self._system = prompt(f"{seed}/system", load.system_words) if load.system_words else ""

    def guard(self, client: Callable[[], None]) -> None:
        """Run a client and keep what it failed of."""
        try:
            client()
        except (OSError, http.client.HTTPException, ChatError, LoadError, ValueError) as error:
            self.errors.append(error)
            self._failed.set()

    def stream(self, number: int) -> None:
        """One request after the other."""
        self._start.wait(self._timeout_s)
        said: list[tuple[str, str]] = []
        for index in range(self.load.requests):
            if self._failed.is_set():
                return
            asked, text = self._ask(number, index, said, time.perf_counter())
            if self.load.talk == "turns":
                said.append((asked, text))

    def arrival(self, number: int, due: float) -> None:
        """One request when it is due."""
        if not self._failed.wait(max(due - time.perf_counter(), 0)):
            self._ask(number, 0, [], due)

    def _ask(
        self, stream: int, index: int, said: Sequence[tuple[str, str]], sent: float
    ) -> tuple[str, str]:
        """Ask and keep the trace; what was asked and what was answered."""
        load = self.load
        asked = question(load.talk, f"{self.seed}/{stream}/{index}", load.prompt_words)
        # A chat stays with its model: another one would not know the prompt that both have kept.
        turn = 0 if load.talk == "turns" else index
        models = self.target.models
        model = models[pick(load.choice, len(models), stream=stream, index=turn, seed=self.seed)]
        body = {
            "messages": messages(self._system, said, asked),
            "max_tokens": load.output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **model,
        }
        if constrained := stream % load.streams < load.constrained:
            body["response_format"] = PEOPLE
        trace = exchange(self.target.url, body, sent=sent, deadline=self._deadline)
        if self.target.exact and trace.output_tokens != load.output_tokens:
            raise LoadError(f"{trace.output_tokens} tokens, not {load.output_tokens}")
        self.traces.append(replace(trace, constrained=constrained))
        return asked, trace.text
